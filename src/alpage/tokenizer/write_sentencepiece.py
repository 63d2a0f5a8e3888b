"""SentencePiece's `tokenizer.model`, as Llama 2 ships it: a protocol buffer with pieces and scores.

Field numbers are those of `sentencepiece_model.proto`.
"""

import struct

from alpage.core.errors import UnsupportedError
from alpage.tokenizer.pieces import byte_piece
from alpage.tokenizer.spaces import Prefix, Scope, SpaceRule
from alpage.tokenizer.tokenizer import Tokenizer
from alpage.tokenizer.write_gguf import scores_of, texts_of, token_types

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_BPE = 2
_MODEL_TYPE, _VOCAB_SIZE, _BYTE_FALLBACK = 3, 4, 35
_FIRST_ID, _FIRST_TEXT = 40, 45
_NAME, _DUMMY_PREFIX, _EXTRA_SPACES, _ESCAPE = 1, 3, 4, 5
_VARINT, _MESSAGE, _FIXED32 = 0, 2, 5


def to_sentencepiece(tokenizer: Tokenizer) -> bytes:
    """The file's contents, of which `from_sentencepiece` and sentencepiece make an equal tokenizer.

    Names of tokens beyond unknown, begin, end and padding have no place in it. `UnsupportedError`
    with the reason for a tokenizer that the format cannot hold.
    """
    rule = tokenizer.rule
    if not isinstance(rule, SpaceRule):
        raise _refused("this is byte-level BPE, and it holds pieces with U+2581 for a space")
    _check_spaces(tokenizer, rule)
    _check_tokens(tokenizer)
    texts = texts_of(tokenizer)
    for token, data in tokenizer.vocabulary.raw_bytes.items():
        texts[token] = byte_piece(data[0])
    pieces = zip(texts, scores_of(tokenizer), token_types(tokenizer), strict=True)
    model = [
        _field(_PIECE, _field(1, text.encode()) + _field(2, score) + _field(3, kind))
        for text, score, kind in pieces
    ]
    normalizer = (
        _field(_NAME, b"identity")
        + _field(_DUMMY_PREFIX, int(rule.prefix is Prefix.ALWAYS))
        + _field(_EXTRA_SPACES, int(rule.collapse))
        + _field(_ESCAPE, 1)
    )
    return b"".join(
        [*model, _field(_TRAINER, _trainer(tokenizer)), _field(_NORMALIZER, normalizer)]
    )


def _refused(reason: str) -> UnsupportedError:
    return UnsupportedError(f"SentencePiece's tokenizer.model cannot hold this tokenizer: {reason}")


def _check_spaces(tokenizer: Tokenizer, rule: SpaceRule) -> None:
    """Spaces must go where sentencepiece puts them."""
    if rule.split or rule.prefix is Prefix.MISSING or rule.scope is Scope.START:
        raise _refused("it puts a space in front of every text, or of none")
    if rule.strip != (rule.prefix is Prefix.ALWAYS or rule.collapse):
        raise _refused("it takes away the first space of a decoded text where it added one")
    vocabulary = tokenizer.vocabulary
    # Without tokens that are found in texts, and without collapsing, a part is a text.
    apart = bool(rule.collapse or vocabulary.added or vocabulary.unused)
    if apart and rule.scope is not Scope.TEXTS:
        raise _refused("its readers put no space behind an added token, and this tokenizer does")


def _check_tokens(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    if len(vocabulary.unknown) != 1:
        raise _refused(f"it needs one unknown token, and there are {len(vocabulary.unknown)}")
    if missing := sorted(tokenizer.missing_bytes):
        raise _refused(f"it needs all 256 bytes, and the vocabulary lacks 0x{missing[0]:02X}")
    if tokenizer.bos_id is not None and not tokenizer.add_bos:
        raise _refused(f"its readers put the token {tokenizer.bos_id} in front of every text")


def _trainer(tokenizer: Tokenizer) -> bytes:
    """The settings of training that readers look at."""
    vocabulary = tokenizer.vocabulary
    (unknown,) = vocabulary.unknown
    named = (unknown, tokenizer.bos_id, tokenizer.eos_id, vocabulary.names.get("padding"))
    found = _field(_MODEL_TYPE, _BPE) + _field(_VOCAB_SIZE, tokenizer.vocab_size)
    found += _field(_BYTE_FALLBACK, 1)
    for place, token in enumerate(named):
        text = "" if token is None else vocabulary.pieces[token] or ""
        found += _field(_FIRST_ID + place, -1 if token is None else token)
        found += _field(_FIRST_TEXT + place, text.encode())
    return found


def _field(number: int, value: bytes | int | float) -> bytes:
    """One field of a protocol buffer; floats take four bytes."""
    if isinstance(value, bytes):
        return _varint(number << 3 | _MESSAGE) + _varint(len(value)) + value
    if isinstance(value, float):
        return _varint(number << 3 | _FIXED32) + struct.pack("<f", value)
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number takes all ten bytes
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
