"""`tokenizer.model` in tiktoken's format, as Llama 3 ships it."""

import base64
import dataclasses

from alpage.core.errors import UnsupportedError
from alpage.tokenizer.bytelevel_core import ByteLevelCore
from alpage.tokenizer.merging import recover_merges
from alpage.tokenizer.spaces import SpaceRule
from alpage.tokenizer.tiktoken import LLAMA3_SPECIALS, RANKS
from alpage.tokenizer.tokenizer import Tokenizer

_RESERVED = "<|reserved_special_token_"


def to_tiktoken(tokenizer: Tokenizer) -> bytes:
    """The file's contents, of which `from_tiktoken` makes an equal tokenizer.

    The format holds ranks and nothing else: its readers add Llama 3's pattern and special tokens
    by themselves. `UnsupportedError` with the reason for a tokenizer that has others. Reserved
    tokens may have other names, since no text means them.
    """
    rule = tokenizer.rule
    if isinstance(rule, SpaceRule):
        raise _refused("it holds byte-level BPE, and this is a SentencePiece-style vocabulary")
    if rule.name != "llama-bpe" or not tokenizer.ignore_merges:
        raise _refused(f"its readers cut text by Llama 3's rule, not by that of {rule.name!r}")
    _check_special(tokenizer)
    _check_merges(tokenizer)
    lines = [
        base64.b64encode(tokenizer.token_bytes(token)) + b" %d\n" % token for token in range(RANKS)
    ]
    return b"".join(lines)


def _refused(reason: str) -> UnsupportedError:
    return UnsupportedError(f"tiktoken's tokenizer.model cannot hold this tokenizer: {reason}")


def _check_special(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    if vocabulary.added or vocabulary.raw_bytes:
        token = min(vocabulary.added | vocabulary.raw_bytes.keys())
        raise _refused(
            f"token {token} {vocabulary.pieces[token]!r} is neither an ordinary nor a special token"
        )
    early = min(vocabulary.special, default=RANKS)
    if early < RANKS:
        raise _refused(
            f"special tokens come after all others, and {vocabulary.pieces[early]!r} has the id "
            f"{early}"
        )
    pieces = vocabulary.pieces
    if len(pieces) != RANKS + len(LLAMA3_SPECIALS) or None in pieces:
        raise _refused(
            f"it has {RANKS} tokens and {len(LLAMA3_SPECIALS)} special ones, and this vocabulary "
            f"{len(pieces) - len(vocabulary.special)} and {len(vocabulary.special)}"
        )
    for token, text in enumerate(LLAMA3_SPECIALS, RANKS):
        own = pieces[token]
        if token not in vocabulary.special:
            raise _refused(f"token {token} {own!r} is an ordinary one where {text} belongs")
        if own != text and not (own or "").startswith(_RESERVED):
            raise _refused(f"the special token {token} is {own!r}, where Llama 3 has {text}")
    bos = RANKS + LLAMA3_SPECIALS.index("<|begin_of_text|>")
    if tokenizer.bos_id != bos or not tokenizer.add_bos:
        raise _refused(f"its readers put the token {bos} in front of every text")


def _check_merges(tokenizer: Tokenizer) -> None:
    """Ranks say what the merges say if pieces are built in the order of their ids.

    Pairs may be missing, if only those by which no piece is ever built: then every piece alone
    is merged to the same ids, and by induction every text is.
    """
    vocabulary = tokenizer.vocabulary
    ids = vocabulary.ordinary()
    last = -1
    for left, right in vocabulary.merges:
        rank = ids[left + right]
        if rank < last:
            raise _refused(
                f"merges are ranked by their results, and {left + right!r} ({rank}) is merged "
                f"after the token {last}"
            )
        last = rank
    pieces = [piece for piece in vocabulary.pieces[:RANKS] if piece is not None]
    merges = recover_merges(pieces)
    if merges == vocabulary.merges:
        return
    rule = tokenizer.rule
    assert not isinstance(rule, SpaceRule)
    if missing := [byte for byte in range(256) if byte not in tokenizer.core.byte_ids]:
        raise _refused(f"it needs all 256 bytes, and the vocabulary lacks 0x{missing[0]:02X}")
    own = ByteLevelCore(vocabulary, rule, ignore_merges=False)
    ranked = ByteLevelCore(dataclasses.replace(vocabulary, merges=merges), rule, False)
    for piece, token in ids.items():
        if own.merge(piece) != ranked.merge(piece):
            raise _refused(
                f"by the ranks, {piece!r} (token {token}) is merged otherwise than by the merges"
            )
