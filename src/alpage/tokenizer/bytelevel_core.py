"""Encoding with a byte-level BPE vocabulary: cut by the pre-tokenizer's rule, then merge."""

from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer as BpeTokenizer
from tokenizers import models

from alpage.core.errors import FormatError
from alpage.tokenizer.bytelevel import BYTE_TO_CHAR, bytes_of
from alpage.tokenizer.chunks import chunks
from alpage.tokenizer.pretokenize import PreTokenizer
from alpage.tokenizer.vocabulary import Vocabulary


class ByteLevelCore:
    """Text to ids. `byte_ids`: the token of each byte that has one."""

    def __init__(self, vocabulary: Vocabulary, rule: PreTokenizer, ignore_merges: bool) -> None:
        """`FormatError` for merges that the vocabulary does not bear out."""
        ordinary = vocabulary.ordinary()
        self.byte_ids = _byte_ids(ordinary, vocabulary.raw_bytes)
        self.cut = rule.cut
        self._core = bpe(ordinary, ordinary, vocabulary.merges, ignore_merges=ignore_merges)
        self._core.pre_tokenizer = rule.splitter

    def encode(self, text: str, ids: list[int], fresh: bool) -> None:
        """Append the ids of plain `text`; where it begins makes no difference."""
        for chunk in chunks(text, self.cut):
            ids.extend(self._core.encode(chunk, add_special_tokens=False).ids)

    def merge(self, piece: str) -> list[int]:
        """Ids of a text in the byte-level alphabet that is not cut before it is merged."""
        return [token.id for token in self._core.model.tokenize(piece)]

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
    merges: list[tuple[str, str]],
    **options: bool,
) -> BpeTokenizer:
    """The Rust library's merging of `vocab`; `FormatError` for merges beyond `ordinary` pieces."""
    # Checked here because the library panics on a result longer than every token.
    if not all(map(ordinary.__contains__, map("".join, merges))):
        raise merge_error(ordinary, merges)
    try:
        return BpeTokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    except Exception as error:  # The library raises the bare class for every refusal.
        raise merge_error(ordinary, merges, f": {error}") from error


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
