"""A tokenizer from Llama 3's `tokenizer.model`: ranks in tiktoken's format."""

import binascii
from pathlib import Path

from alpage.core.errors import FormatError, UnsupportedError
from alpage.tokenizer.bytelevel import piece_of
from alpage.tokenizer.files import read_bounded
from alpage.tokenizer.merging import recover_merges
from alpage.tokenizer.pretokenize import pre_tokenizer
from alpage.tokenizer.tokenizer import Tokenizer
from alpage.tokenizer.vocabulary import Vocabulary

RANKS = 128_000
"""Ordinary tokens of Llama 3; 256 special tokens follow."""

_MAX_BYTES = 16 << 20
_MAX_PIECE = 1 << 8  # bytes; the longest of Llama 3 has 128

_NAMED = (
    "begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1",
    "finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id",
    "python_tag", "image",
)  # fmt: skip

LLAMA3_SPECIALS = tuple(
    f"<|{name}|>"
    for name in (*_NAMED, *(f"reserved_special_token_{i}" for i in range(2, 258 - len(_NAMED))))
)
"""Texts of Llama 3.1's 256 special tokens, in the order of their ids (from 128,000)."""


def from_tiktoken(path: Path) -> Tokenizer:
    """Read Llama 3's `tokenizer.model`.

    Each line is a token in base64, a space and its rank. `FormatError` names the line that is
    malformed, repeated or out of order; `UnsupportedError` when the file is another family's.
    """
    pieces = _read_pieces(path)
    if len(pieces) != RANKS:
        raise UnsupportedError(
            f"{path} has {len(pieces)} ranks; Alpage reads Llama 3's tokenizer.model, which has "
            f"{RANKS}"
        )
    ends = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
    ids = {text: RANKS + i for i, text in enumerate(LLAMA3_SPECIALS)}
    vocabulary = Vocabulary(
        pieces=[*pieces, *LLAMA3_SPECIALS],
        merges=recover_merges(pieces),
        special=frozenset(ids.values()),
        bos_id=ids["<|begin_of_text|>"],
        eos_id=ids["<|end_of_text|>"],
        add_bos=True,
        stop_ids=frozenset(ids[text] for text in ends),
    )
    return Tokenizer(vocabulary, pre_tokenizer("llama-bpe"), ignore_merges=True)


def _read_pieces(path: Path) -> list[str]:
    """Tokens by rank, spelled in the byte-level alphabet."""
    tokens: list[bytes] = []
    seen: dict[bytes, int] = {}
    for number, line in enumerate(read_bounded(path, _MAX_BYTES).split(b"\n"), 1):
        if not line.strip():
            continue
        token, rank = _parse(path, number, line)
        if rank != len(tokens):
            raise FormatError(
                f"{path}, line {number}: rank {rank} where {len(tokens)} is next; ranks must be "
                "0, 1, 2, ..."
            )
        if token in seen:
            raise FormatError(
                f"{path}, line {number}: token {token!r:.80} is also on rank {seen[token]}"
            )
        seen[token] = rank
        tokens.append(token)
    if not tokens:
        raise FormatError(f"{path} holds no token")
    missing = [byte for byte in range(256) if bytes([byte]) not in seen]
    if missing:
        raise FormatError(
            f"{path} has no token for the byte 0x{missing[0]:02X}; it is cut short or damaged"
        )
    return [piece_of(token) for token in tokens]


def _parse(path: Path, number: int, line: bytes) -> tuple[bytes, int]:
    fields = line.split()
    if len(fields) != 2 or not fields[1].isdigit() or len(fields[1]) > 9:
        raise FormatError(
            f"{path}, line {number}: expected a base64 token and a rank, not {line[:60]!r}"
        )
    try:
        token = binascii.a2b_base64(fields[0], strict_mode=True)
    except binascii.Error as error:
        raise FormatError(
            f"{path}, line {number}: {fields[0][:60]!r} is not base64 ({error})"
        ) from error
    if not 0 < len(token) <= _MAX_PIECE:
        raise FormatError(
            f"{path}, line {number}: a token has 1 to {_MAX_PIECE} bytes, not {len(token)}"
        )
    return token, int(fields[1])
