"""Text to token ids and back, for byte-level BPE vocabularies.

The merging itself is done by the Rust library `tokenizers`. Special tokens are kept out of its
vocabulary, so no text can become one unless the caller asks for it with `special=True`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer as BpeTokenizer
from tokenizers import models

from alpage.core.errors import FormatError, InputError, UsageError
from alpage.tokenizer.bytelevel import BYTE_TO_CHAR, bytes_of
from alpage.tokenizer.matcher import TokenMatcher
from alpage.tokenizer.pretokenize import PreTokenizer

_CHUNK = 1 << 18
"""Longer texts are encoded in parts of about this many characters: it bounds the memory."""

_ESCAPED = re.compile("([\udc80-\udcff]+)")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a tokenizer file says, checked and in one form.

    `pieces[id]` is the token's text: in the byte-level alphabet for ordinary pieces, plain for
    the ids in `special` (control tokens) and `added` (matched in any text). None: no such token.
    `raw_bytes` holds tokens that stand for bytes not spelled by their text.
    """

    pieces: Sequence[str | None]
    merges: list[tuple[str, str]]
    special: frozenset[int]
    added: frozenset[int] = frozenset()
    raw_bytes: Mapping[int, bytes] = field(default_factory=dict)
    bos_id: int | None = None
    eos_id: int | None = None
    add_bos: bool = False
    stop_ids: frozenset[int] = frozenset()


class Tokenizer:
    """Encodes and decodes; immutable after construction and safe to share between threads.

    `vocab_size`: ids are below it. `bos_id`, `eos_id`: begin and end of text, where the file
    names them. `add_bos`: the model expects `bos_id` first. `special_ids`: text of every control
    token to its id. `stop_ids`: ids after which an answer is over. `missing_bytes`: bytes that
    the vocabulary cannot express; they are left out when text is encoded, as the reference
    tokenizers do (SmolLM2 lacks some control characters and bytes of unassigned planes). Without
    them, `decode_bytes(encode(data)) == data` for all data.
    """

    def __init__(self, vocabulary: Vocabulary, rule: PreTokenizer, ignore_merges: bool) -> None:
        """Use `from_gguf`, `from_tokenizer_json` or `from_tiktoken` to make one from a file."""
        pieces = vocabulary.pieces
        self.vocab_size = len(pieces)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.add_bos = vocabulary.add_bos
        self.stop_ids = vocabulary.stop_ids
        self.special_ids: Mapping[str, int] = _texts(pieces, vocabulary.special)
        self._pieces = pieces
        self._special = vocabulary.special
        self._plain = vocabulary.special | vocabulary.added
        self._bytes: list[bytes | None] = [None] * len(pieces)
        for token, data in vocabulary.raw_bytes.items():
            self._bytes[token] = data
        ordinary = _ordinary(vocabulary)
        self._byte_ids = _byte_ids(ordinary, vocabulary.raw_bytes)
        self.missing_bytes = frozenset(range(256)) - self._byte_ids.keys()
        self._core = _core(ordinary, vocabulary.merges, rule, ignore_merges)
        self._cut = rule.cut
        added = _texts(pieces, vocabulary.added)
        self._added = TokenMatcher(added) if added else None
        self._all = TokenMatcher({**added, **self.special_ids})

    def encode(
        self, text: str | bytes, *, special: bool = False, add_bos: bool = False
    ) -> list[int]:
        """Token ids of `text`.

        With `special`, texts of control tokens such as `<|im_end|>` become those tokens; never
        do that with text from users. Bytes need not be valid UTF-8: valid stretches are encoded
        as text, every other byte as its own token. Surrogate pairs in a `str` are joined, lone
        surrogates become U+FFFD. `UsageError` when `add_bos` is asked of a vocabulary without it.
        """
        ids = self._first(add_bos)
        for part in _valid_parts(text) if isinstance(text, bytes) else (_joined(text),):
            if isinstance(part, bytes):
                ids.extend(self._byte_ids[byte] for byte in part if byte in self._byte_ids)
            elif special:
                self._encode_mixed(self._all.split(part), ids)
            else:
                self._encode_text(part, ids)
        return ids

    def encode_segments(
        self, segments: Iterable[tuple[str, bool]], *, add_bos: bool = False
    ) -> list[int]:
        """Token ids of a rendered prompt made of (text, special) segments.

        Special tokens are recognised inside segments marked special only, also not across two
        segments; all other text is encoded as if the segments were one string, as the model saw
        it in training.
        """
        ids = self._first(add_bos)
        pending: list[str] = []
        for text, special in segments:
            for part in self._all.split(_joined(text)) if special else (text,):
                if isinstance(part, str):
                    pending.append(part)
                    continue
                self._encode_text(_joined("".join(pending)), ids)
                pending.clear()
                ids.append(part)
        self._encode_text(_joined("".join(pending)), ids)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD. `InputError` for a foreign id."""
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = True) -> bytes:
        """Bytes of `ids`, without control tokens unless `skip_special` is False."""
        skipped = self._special if skip_special else frozenset()
        return b"".join([self.token_bytes(token) for token in ids if token not in skipped])

    def token_bytes(self, id: int) -> bytes:  # noqa: A002 - the public name
        """Bytes that one token stands for; of a control token, its text.

        `InputError` for an id outside the vocabulary.
        """
        if not 0 <= id < self.vocab_size:
            raise InputError(f"token id {id} is outside the vocabulary of {self.vocab_size} tokens")
        data = self._bytes[id]
        if data is None:
            piece = self._pieces[id] or ""
            plain = id in self._plain
            data = piece.encode("utf-8", "replace") if plain else bytes_of(piece)
            self._bytes[id] = data
        return data

    def is_special(self, id: int) -> bool:  # noqa: A002 - the public name
        """Whether `id` is a control token, which text alone never becomes."""
        return id in self._special

    def _first(self, add_bos: bool) -> list[int]:
        if not add_bos:
            return []
        if self.bos_id is None:
            raise UsageError("this vocabulary names no beginning-of-text token to add")
        return [self.bos_id]

    def _encode_mixed(self, parts: Iterable[str | int], ids: list[int]) -> None:
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                self._encode_plain(part, ids)

    def _encode_text(self, text: str, ids: list[int]) -> None:
        if self._added is None:
            self._encode_plain(text, ids)
        else:
            self._encode_mixed(self._added.split(text), ids)

    def _encode_plain(self, text: str, ids: list[int]) -> None:
        for chunk in _chunks(text, self._cut):
            ids.extend(self._core.encode(chunk, add_special_tokens=False).ids)


def _texts(pieces: Sequence[str | None], ids: Iterable[int]) -> dict[str, int]:
    """Text to id of the given tokens, in the order of their ids."""
    return {piece: token for token in sorted(ids) if (piece := pieces[token])}


def _ordinary(vocabulary: Vocabulary) -> dict[str, int]:
    """The vocabulary that merging works on: everything but control tokens and raw bytes."""
    ordinary = {piece: token for token, piece in enumerate(vocabulary.pieces) if piece}
    present = sum(map(bool, vocabulary.pieces))
    if len(ordinary) != present:
        seen: set[str] = set()
        for token, piece in enumerate(vocabulary.pieces):
            if piece and piece in seen:
                raise FormatError(f"token {token} {piece!r} is in the vocabulary twice")
            seen.add(piece or "")
    for token in (*vocabulary.special, *vocabulary.raw_bytes):
        ordinary.pop(vocabulary.pieces[token] or "", None)
    return ordinary


def _byte_ids(ordinary: Mapping[str, int], raw_bytes: Mapping[int, bytes]) -> dict[int, int]:
    found = {data[0]: token for token, data in raw_bytes.items() if len(data) == 1}
    for byte, char in enumerate(BYTE_TO_CHAR):
        if char in ordinary:
            found[byte] = ordinary[char]
    return found


def _core(
    ordinary: dict[str, int],
    merges: list[tuple[str, str]],
    rule: PreTokenizer,
    ignore_merges: bool,
) -> BpeTokenizer:
    # Checked here because the library panics on a result longer than every token.
    if not all(map(ordinary.__contains__, map("".join, merges))):
        raise _merge_error(ordinary, merges)
    try:
        core = BpeTokenizer(models.BPE(vocab=ordinary, merges=merges, ignore_merges=ignore_merges))
    except Exception as error:  # The library raises the bare class for every refusal.
        raise _merge_error(ordinary, merges, f": {error}") from error
    core.pre_tokenizer = rule.splitter
    return core


def _merge_error(
    ordinary: Mapping[str, int], merges: Iterable[tuple[str, str]], reason: str = ""
) -> FormatError:
    for left, right in merges:
        for piece in (left, right, left + right):
            if piece not in ordinary:
                return FormatError(
                    f"the merge {left!r} + {right!r} needs the piece {piece!r}, which is not an "
                    "ordinary token of the vocabulary"
                )
    return FormatError(f"the vocabulary cannot be used{reason}")


def _joined(text: str) -> str:
    """`text` without surrogates: pairs joined, lone ones replaced (as tiktoken does)."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _valid_parts(data: bytes) -> Iterator[str | bytes]:
    """Cut bytes into stretches of valid UTF-8, as text, and the bytes between them."""
    for part in _ESCAPED.split(data.decode("utf-8", "surrogateescape")):
        if not part:
            continue
        if "\udc80" <= part[0] <= "\udcff":
            yield part.encode("utf-8", "surrogateescape")
        else:
            yield part


def _chunks(text: str, cut: re.Pattern[str]) -> Iterator[str]:
    begin = 0
    while len(text) - begin > _CHUNK and (found := cut.search(text, begin + _CHUNK)):
        yield text[begin : found.end()]
        begin = found.end()
    if begin < len(text):
        yield text[begin:]
