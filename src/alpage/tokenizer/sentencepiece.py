"""A tokenizer from SentencePiece's `tokenizer.model`: a protocol buffer with pieces and scores.

Field numbers are those of `sentencepiece_model.proto`; everything else in the file is skipped.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpage.core.errors import FormatError, UnsupportedError
from alpage.core.paths import storage_errors
from alpage.tokenizer.config import read_config
from alpage.tokenizer.files import read_bounded
from alpage.tokenizer.gguf import END_TEXTS, raw_byte
from alpage.tokenizer.spaces import Prefix, Scope, SpaceRule
from alpage.tokenizer.tokenizer import Tokenizer
from alpage.tokenizer.vocabulary import Vocabulary

_MAX_BYTES = 16 << 20
_MAX_PIECES = 1 << 19
_MAX_ENTRIES = 16  # of a piece, and settings beside the pieces
_MAX_SETTINGS = 1 << 17  # among them texts that training was told to keep
_VARINT, _FIXED64, _MESSAGE, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_MODELS = {1: "Unigram", 2: "BPE", 3: "Word", 4: "Char"}

# ModelProto, its pieces, and the settings of training and normalisation that matter here.
_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SUFFIX, _UNK, _BOS, _EOS, _PAD = 3, 24, 45, 46, 47, 48
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_SPACES, _ESCAPE = 2, 3, 4, 5

_Value = int | bytes


@dataclass(slots=True)
class _Model:
    pieces: list[str | None] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    trainer: dict[int, _Value] = field(default_factory=dict)
    normalizer: dict[int, _Value] = field(default_factory=dict)
    denormalizer: dict[int, _Value] = field(default_factory=dict)


def is_sentencepiece(path: Path) -> bool:
    """Whether a `tokenizer.model` begins like SentencePiece's, not like tiktoken's lines."""
    with storage_errors(f"read {path}"), path.open("rb") as file:
        head = file.read(16)
    # A piece is field 1, and its text field 1 in it; base64 has no such bytes.
    return len(head) > 2 and head[0] == _PIECES << 3 | _MESSAGE and head[2] < 0x20


def from_sentencepiece(path: Path) -> Tokenizer:
    """Read a BPE `tokenizer.model` with byte fallback, as Llama 2 and Mistral ship it.

    `tokenizer_config.json` beside it, if any, says whether a begin token goes first (else: it
    does, where the vocabulary has one). `FormatError` for a damaged file, `UnsupportedError` for
    a Unigram model, one that normalises text, or one without byte fallback.
    """
    model = _read(path)
    if not model.pieces:
        raise FormatError(f"{path} holds no piece")
    _check_supported(path, model)
    tokens = {piece: token for token, piece in enumerate(model.pieces) if piece}
    kinds: dict[int, set[int]] = {kind: set() for kind in range(_NORMAL, _BYTE + 1)}
    for token, kind in enumerate(model.types):
        if kind not in kinds:
            raise FormatError(f"{path}: piece {token} has the type {kind}; types are 1 to 6")
        kinds[kind].add(token)
    # No text may end an answer by itself, whatever the file calls such a token.
    ends = {tokens[text] for text in END_TEXTS & tokens.keys()} - kinds[_BYTE]
    special = frozenset(kinds[_UNKNOWN] | kinds[_CONTROL] | ends)

    def named(number: int, default: bytes) -> int | None:
        text = model.trainer.get(number, default)
        token = tokens.get(text.decode("utf-8", "replace")) if isinstance(text, bytes) else None
        return token if token in special else None

    bos, eos = named(_BOS, b"<s>"), named(_EOS, b"</s>")
    names = {"unknown": named(_UNK, b"<unk>"), "padding": named(_PAD, b"<pad>")}
    said = read_config(path.with_name("tokenizer_config.json")).get("add_bos_token")
    vocabulary = Vocabulary(
        pieces=model.pieces,
        merges=[],
        scores=model.scores,
        special=special,
        added=frozenset(kinds[_USER_DEFINED] - ends),
        raw_bytes={t: raw_byte(t, model.pieces[t] or "", True) for t in sorted(kinds[_BYTE])},
        bos_id=bos,
        eos_id=eos,
        add_bos=bos is not None and (said if isinstance(said, bool) else True),
        stop_ids=frozenset(ends if eos is None else ends | {eos}),
        unknown=frozenset(kinds[_UNKNOWN]),
        unused=frozenset(kinds[_UNUSED] - ends),
        names={key: token for key, token in names.items() if token is not None},
    )
    return Tokenizer(vocabulary, _rule(model, vocabulary), ignore_merges=False)


def _check_supported(path: Path, model: _Model) -> None:
    kind = model.trainer.get(_MODEL_TYPE, 1)
    if kind != 2:
        shown = _MODELS.get(kind, kind) if isinstance(kind, int) else kind
        raise UnsupportedError(
            f"{path} is a SentencePiece model of the type {shown!r:.80}; Alpage runs BPE"
        )
    charsmap = (model.normalizer.get(_CHARSMAP), model.denormalizer.get(_CHARSMAP))
    if any(charsmap):
        raise UnsupportedError(
            f"{path} normalises text by a table of characters; Alpage runs SentencePiece models "
            "that keep text as it is ('identity')"
        )
    if model.trainer.get(_SUFFIX) or not model.normalizer.get(_ESCAPE, 1):
        raise UnsupportedError(
            f"{path} puts spaces behind words, or leaves them as they are; Alpage runs "
            "SentencePiece models that put U+2581 in front"
        )


def _rule(model: _Model, vocabulary: Vocabulary) -> SpaceRule:
    prefix = bool(model.normalizer.get(_DUMMY_PREFIX, 1))
    collapse = bool(model.normalizer.get(_EXTRA_SPACES, 1))
    # Without added tokens and collapsing, the parts of llama.cpp are sentencepiece's texts.
    plain = not collapse and not vocabulary.added and not vocabulary.unused
    return SpaceRule(
        Prefix.ALWAYS if prefix else Prefix.NEVER,
        Scope.PARTS if plain else Scope.TEXTS,
        strip=prefix or collapse,
        collapse=collapse,
    )


def _read(path: Path) -> _Model:
    model = _Model()
    try:
        others = 0
        for number, value in _fields(read_bounded(path, _MAX_BYTES), _MAX_PIECES):
            if not isinstance(value, bytes):
                continue
            if number == _PIECES:
                _read_piece(model, value)
                continue
            others += 1
            if others > _MAX_ENTRIES:
                raise _BrokenError(f"more than {_MAX_ENTRIES} parts that are no pieces")
            if number in (_TRAINER, _NORMALIZER, _DENORMALIZER):
                # A message that comes in several parts is all of them.
                into = {_TRAINER: model.trainer, _NORMALIZER: model.normalizer}
                settings = into.get(number, model.denormalizer)
                settings.update(_fields(value, _MAX_SETTINGS))
    except _BrokenError as error:
        raise FormatError(f"{path} is no SentencePiece model: {error}") from error
    return model


def _read_piece(model: _Model, data: bytes) -> None:
    entry: dict[int, Any] = dict(_fields(data, _MAX_ENTRIES))
    text, score, kind = entry.get(_TEXT, b""), entry.get(_SCORE, b"\0\0\0\0"), entry.get(_TYPE, 1)
    token = len(model.pieces)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
        raise _BrokenError(f"piece {token} has no text or no score")
    try:
        model.pieces.append(text.decode())
    except UnicodeDecodeError as error:
        raise _BrokenError(f"the text of piece {token} is not UTF-8") from error
    (number,) = struct.unpack("<f", score)
    if not math.isfinite(number):
        raise _BrokenError(f"the score of piece {token} is {number}")
    model.scores.append(number)
    model.types.append(kind if isinstance(kind, int) else -1)


class _BrokenError(Exception):
    """Bytes that are no protocol buffer."""


def _fields(data: bytes, limit: int) -> Iterator[tuple[int, _Value]]:
    """Number and value of each field: an integer, or bytes (also of the fixed sizes)."""
    at = count = 0
    while at < len(data):
        count += 1
        if count > limit:
            raise _BrokenError(f"more than {limit} fields in one part")
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _MESSAGE:
            size, at = _varint(data, at)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise _BrokenError(f"wire type {wire} before byte {at}")
        if size > len(data) - at:
            raise _BrokenError(f"a field of {size} bytes at {at}, where {len(data) - at} are left")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise _BrokenError(f"an integer without an end at byte {at}")
