"""Encoding with a byte-level BPE vocabulary: cut by the pre-tokenizer's rule, then merge."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from tokenizers import Tokenizer as BpeTokenizer
from tokenizers import models

from alpage.core.errors import FormatError
from alpage.tokenizer.bytelevel import BYTE_TO_CHAR, bytes_of
from alpage.tokenizer.chunks import chunks
from alpage.tokenizer.merging import merge_by_rank
from alpage.tokenizer.pretokenize import PreTokenizer
from alpage.tokenizer.vocabulary import MergeLines, Vocabulary

_PLAIN_CHARACTERS = 1 << 13
"""Characters to merge in Python before the library is worth its start: both take about as long."""


class ByteLevelCore:
    """Text to ids. `byte_ids`: the token of each byte that has one.

    The Rust library takes 60 ms to start with 50,000 merges, and the first prompt of a program
    would wait for it. So the first texts are merged here, by the same rule, if the merges are at
    hand in a form that needs no work (`MergeLines`); for more text than that the library starts.
    """

    def __init__(self, vocabulary: Vocabulary, rule: PreTokenizer, ignore_merges: bool) -> None:
        """`FormatError` for merges that the vocabulary does not bear out."""
        self._ordinary = vocabulary.ordinary()
        self._merges = vocabulary.merges
        self._rule = rule
        self._ignore_merges = ignore_merges
        self.byte_ids = _byte_ids(self._ordinary, vocabulary.raw_bytes)
        self.cut = rule.cut
        check_merges(self._ordinary, self._merges)
        self._plain_left = _PLAIN_CHARACTERS
        self._started = None if isinstance(self._merges, MergeLines) else self._start()

    def encode(self, text: str, ids: list[int], fresh: bool) -> None:
        """Append the ids of plain `text`; where it begins makes no difference."""
        if self._started is None and len(text) <= self._plain_left:
            self._plain_left -= len(text)
            for piece, _ in self._rule.splitter.pre_tokenize_str(text):
                ids.extend(self.merge_plainly(piece))
            return
        library = self._library()
        for chunk in chunks(text, self.cut):
            ids.extend(library.encode(chunk, add_special_tokens=False).ids)

    def merge(self, piece: str) -> list[int]:
        """Ids of a text in the byte-level alphabet that is not cut before it is merged."""
        return [token.id for token in self._library().model.tokenize(piece)]

    def merge_plainly(self, piece: str) -> list[int]:
        """The same as `merge` without the library, for `MergeLines` only."""
        assert isinstance(self._merges, MergeLines)
        ordinary = self._ordinary
        if self._ignore_merges and (token := ordinary.get(piece)) is not None:
            return [token]
        symbols = [char for char in piece if char in ordinary]
        return [ordinary[part] for part in merge_by_rank(symbols, self._merges.ranks)]

    def _library(self) -> BpeTokenizer:
        # Two threads may both start it; then one of two equal ones stays.
        self._started = self._started or self._start()
        return self._started

    def _start(self) -> BpeTokenizer:
        library = bpe(
            self._ordinary, self._ordinary, self._merges, ignore_merges=self._ignore_merges
        )
        library.pre_tokenizer = self._rule.splitter
        return library

    def spell(self, piece: str) -> bytes:
        """Bytes that a piece stands for."""
        return bytes_of(piece)


def _byte_ids(ordinary: Mapping[str, int], raw_bytes: Mapping[int, bytes]) -> dict[int, int]:
    found = {data[0]: token for token, data in raw_bytes.items() if len(data) == 1}
    for byte, char in enumerate(BYTE_TO_CHAR):
        if char in ordinary:
            found[byte] = ordinary[char]
    return found


def bpe(
    ordinary: Mapping[str, int],
    vocab: dict[str, int],
    merges: Sequence[tuple[str, str]],
    **options: bool,
) -> BpeTokenizer:
    """The Rust library's merging of `vocab`; `FormatError` where it refuses.

    The merges have passed `check_merges`: the library panics on a result longer than every token.
    """
    try:
        return BpeTokenizer(models.BPE(vocab=vocab, merges=list(merges), **options))
    except Exception as error:  # The library raises the bare class for every refusal.
        raise merge_error(ordinary, merges, f": {error}") from error


def check_merges(ordinary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
    """`FormatError` for merges of, or into, what is no `ordinary` piece."""
    wholes: Iterable[str]
    parts: Iterable[str]
    if isinstance(merges, MergeLines):
        wholes, parts = merges.wholes(), merges.parts()
    else:
        wholes, parts = map("".join, merges), chain.from_iterable(merges)
    if not (ordinary.keys() >= set(parts) and all(map(ordinary.__contains__, wholes))):
        raise merge_error(ordinary, merges)


def merge_error(
    ordinary: Mapping[str, int], merges: Iterable[tuple[str, str]], reason: str = ""
) -> FormatError:
    """What to say of merges that the Rust library refused, or would panic on."""
    for left, right in merges:
        for piece in (left, right, left + right):
            if piece not in ordinary:
                return FormatError(
                    f"the merge {left!r:.80} + {right!r:.80} needs the piece "
                    f"{piece!r:.80}, which is not an ordinary token of the vocabulary"
                )
    return FormatError(f"the vocabulary cannot be used{reason}")
