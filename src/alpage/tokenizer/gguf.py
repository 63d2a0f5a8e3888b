"""A tokenizer from the metadata of a GGUF file (keys `tokenizer.ggml.*`)."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from alpage.core.errors import FormatError, UnsupportedError
from alpage.tokenizer.bytelevel import bytes_of
from alpage.tokenizer.pretokenize import pre_tokenizer
from alpage.tokenizer.tokenizer import Tokenizer, Vocabulary

_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_RAW_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

END_TEXTS = frozenset(
    ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
     "<|end_of_text|>", "<EOT>")
)  # fmt: skip
"""Tokens that end an answer by convention, also in files that forget to say so."""


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that a GGUF file describes.

    `metadata` maps GGUF keys to Python values (lists or numpy arrays for arrays). Only byte-level
    BPE (`tokenizer.ggml.model` = "gpt2") with a known `tokenizer.ggml.pre` is run:
    `UnsupportedError` otherwise. `FormatError` for a missing, mistyped or contradictory entry.
    """
    model = _get(metadata, "model", str)
    if model is None:
        raise FormatError("the file has no tokenizer: the key tokenizer.ggml.model is missing")
    if model != "gpt2":
        raise UnsupportedError(
            f"tokenizer model {model!r} is not supported; Alpage runs byte-level BPE ('gpt2')"
        )
    rule = pre_tokenizer(_get(metadata, "pre", str) or "default")
    if _get(metadata, "add_space_prefix", bool):
        raise UnsupportedError(
            "tokenizer.ggml.add_space_prefix is true; Alpage encodes text without adding to it"
        )
    pieces: list[str | None] = _list(metadata, "tokens", str)
    if not pieces:
        raise FormatError("the vocabulary is empty: tokenizer.ggml.tokens has no entry")
    named = {
        key: _token_id(metadata, key, len(pieces))
        for key in ("bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "mask")
    }
    special, added, raw_bytes = _kinds(metadata, pieces, named)
    vocabulary = Vocabulary(
        pieces=pieces,
        merges=_merges(metadata),
        special=special,
        added=added,
        raw_bytes=raw_bytes,
        bos_id=named["bos"],
        eos_id=named["eos"],
        add_bos=_add_bos(metadata, named["bos"], rule.name),
        stop_ids=frozenset(
            [t for key in ("eos", "eot", "eom") if (t := named[key]) is not None]
            + [token for token in special if pieces[token] in END_TEXTS]
        ),
    )
    return Tokenizer(vocabulary, rule, rule.ignore_merges)


def _get(metadata: Mapping[str, Any], name: str, kind: type) -> Any:
    """Value of `tokenizer.ggml.<name>`, None where absent, `FormatError` for another type."""
    value = metadata.get(_PREFIX + name)
    if value is not None and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    # bool is an int in Python, but not in a file.
    if value is not None and (not isinstance(value, kind) or (kind is int and value is True)):
        raise FormatError(
            f"{_PREFIX}{name} must be of type {kind.__name__}, not {type(value).__name__}"
        )
    return value


def _list(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    value = metadata.get(_PREFIX + name)
    if value is None:
        raise FormatError(f"the file's tokenizer is incomplete: {_PREFIX}{name} is missing")
    values = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(values, list | tuple):
        raise FormatError(f"{_PREFIX}{name} must be an array, not {type(value).__name__}")
    for found in set(map(type, values)) - {kind}:
        index = next(i for i, entry in enumerate(values) if type(entry) is found)
        raise FormatError(
            f"{_PREFIX}{name}[{index}] must be of type {kind.__name__}, not {found.__name__}"
        )
    return list(values)


def _token_id(metadata: Mapping[str, Any], name: str, size: int) -> int | None:
    token: int | None = _get(metadata, f"{name}_token_id", int)
    if token is not None and not 0 <= token < size:
        raise FormatError(
            f"{_PREFIX}{name}_token_id is {token}, outside the vocabulary of {size} tokens"
        )
    return token


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines: list[str] = _list(metadata, "merges", str)
    if {line.count(" ") for line in lines} - {1}:
        index = next(i for i, line in enumerate(lines) if line.count(" ") != 1)
        raise FormatError(
            f"{_PREFIX}merges[{index}] must be two pieces with a space between, not "
            f"{lines[index]!r}"
        )
    if len(set(lines)) != len(lines):
        twice, _ = Counter(lines).most_common(1)[0]
        raise FormatError(f"{_PREFIX}merges lists {twice!r} twice")
    # One split of everything is twice as fast as one per line.
    flat = " ".join(lines).split(" ")
    return list(zip(flat[::2], flat[1::2], strict=True)) if lines else []


def _add_bos(metadata: Mapping[str, Any], bos_id: int | None, rule: str) -> bool:
    """The file's word, or what llama.cpp assumes where the file says nothing."""
    said = _get(metadata, "add_bos_token", bool)
    if said and bos_id is None:
        raise FormatError(
            "tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing"
        )
    return bos_id is not None and (rule == "llama-bpe" if said is None else bool(said))


def _kinds(
    metadata: Mapping[str, Any], pieces: list[str | None], named: Mapping[str, int | None]
) -> tuple[frozenset[int], frozenset[int], dict[int, bytes]]:
    """Ids of control tokens, of user-defined tokens, and the bytes of byte tokens."""
    if metadata.get(_PREFIX + "token_type") is None:
        # Without types, the named ids and the customary end tokens are all that is known.
        special = {token for token in named.values() if token is not None}
        return frozenset(special) | _ends(pieces), frozenset(), {}
    types: list[int] = _list(metadata, "token_type", int)
    if len(types) != len(pieces):
        raise FormatError(
            f"the vocabulary contradicts itself: {len(pieces)} tokens, {len(types)} token types"
        )
    special, added, raw_bytes = set(), set(), {}
    for token, kind in enumerate(types):
        if kind == _NORMAL:
            continue
        piece = pieces[token] or ""
        if not _NORMAL <= kind <= _BYTE:
            raise FormatError(f"{_PREFIX}token_type[{token}] must be 1 to 6, not {kind}")
        if kind in (_UNKNOWN, _CONTROL):
            special.add(token)
        elif kind == _USER_DEFINED:
            added.add(token)
        elif kind == _BYTE:
            raw_bytes[token] = _raw_byte(token, piece)
    # Some converters write end tokens as ordinary ones; llama.cpp corrects that too.
    ends = _ends(pieces)
    return frozenset(special | ends), frozenset(added - ends), raw_bytes


def _ends(pieces: list[str | None]) -> frozenset[int]:
    return frozenset(pieces.index(text) for text in END_TEXTS if text in pieces)


def _raw_byte(token: int, piece: str) -> bytes:
    found = _RAW_BYTE.fullmatch(piece)
    data = bytes.fromhex(found[1]) if found else bytes_of(piece)
    if len(data) != 1:
        raise FormatError(f"token {token} {piece!r} is marked as a byte, but spells none")
    return data
