"""Encoding with a SentencePiece-style vocabulary: scored pieces, and bytes for all other text."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as BpeTokenizer

from alpage.core.errors import FormatError, UnsupportedError
from alpage.tokenizer.bytelevel_core import bpe, check_merges
from alpage.tokenizer.chunks import chunks
from alpage.tokenizer.merging import merge_by_score, merges_of
from alpage.tokenizer.spaces import SPACE, Scope, SpaceRule
from alpage.tokenizer.vocabulary import Vocabulary

_MAX_PIECE = 512
_MAX_CHARACTERS = 1 << 22
_CACHED_WORDS = 1 << 16
_CACHED_LENGTH = 64

# A word with the spaces before it. No piece of a usual vocabulary reaches across its borders.
_WORD = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")
_WORD_END = re.compile(f"[^{SPACE}](?={SPACE})")
_NEVER = re.compile(r"(?!)")


class PieceCore:
    """Text to ids: spaces settled by the rule, then merging, then bytes for what is no piece.

    The Rust library merges wherever that is exact. It ranks merges, not pieces, so scores that
    several pieces share and pieces with characters that are no pieces themselves need the plain
    method, which is some 50 times slower; `exact_merges` is None for those.
    """

    def __init__(self, vocabulary: Vocabulary, rule: SpaceRule, ignore_merges: bool) -> None:
        """`FormatError` for pieces or merges that cannot be, `UnsupportedError` without bytes."""
        self.rule = rule
        self.byte_ids = _byte_ids(vocabulary)
        scores = vocabulary.scores
        ordinary = _mergeable(vocabulary, rule)
        _check_sizes(ordinary)
        self.exact_merges: Sequence[tuple[str, str]] | None = vocabulary.merges
        if scores is not None:
            self.exact_merges = merges_of(ordinary, scores)
        self.replaced = _replaced(vocabulary, ordinary) if rule.scope is Scope.TEXTS else {}
        # Words may be encoded one by one where no piece begins inside one and ends in another.
        built = ordinary if scores is not None else map("".join, vocabulary.merges)
        self._by_words = not ignore_merges and not any(map(_WORD_END.search, built))
        self.cut = _WORD_END if self._by_words or rule.split else _NEVER
        self._merge: Callable[[str], list[int]]
        if self.exact_merges is not None:
            core = _rust(ordinary, self.byte_ids, self.exact_merges, ignore_merges)
            if rule.split:
                core.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
            elif self._by_words:
                core.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD.pattern), "isolated")
            self._merge = lambda text: core.encode(text, add_special_tokens=False).ids
        else:
            assert scores is not None
            self._by_score = {piece: scores[token] for piece, token in ordinary.items()}
            self._ordinary = ordinary
            self._cached = functools.lru_cache(_CACHED_WORDS)(self._word)
            self._merge = self._merge_plainly

    def encode(self, text: str, ids: list[int], fresh: bool) -> None:
        """Append the ids of plain `text`; `fresh`: a space may go in front."""
        self.encode_normal(self.rule.normalise(text, fresh), ids)

    def encode_normal(self, text: str, ids: list[int]) -> None:
        """Append the ids of a text that `SpaceRule.normalise` has spelled."""
        for chunk in chunks(text, self.cut):
            found = self._merge(chunk)
            if self.replaced:
                for token in found:
                    ids.extend(self.replaced.get(token, (token,)))
            else:
                ids.extend(found)

    def spell(self, piece: str) -> bytes:
        """Bytes that a piece stands for."""
        return piece.replace(SPACE, " ").encode("utf-8", "replace")

    def _merge_plainly(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in _WORD.findall(text) if self._by_words else (text,):
            ids.extend(self._cached(word) if len(word) <= _CACHED_LENGTH else self._word(word))
        return ids

    def _word(self, word: str) -> list[int]:
        ids: list[int] = []
        for piece in merge_by_score(word, self._by_score):
            token = self._ordinary.get(piece)
            if token is None:
                ids.extend(self.byte_ids[byte] for byte in piece.encode())
            else:
                ids.append(token)
        return ids


def byte_piece(byte: int) -> str:
    """Text of the token for one byte, such as `<0x0A>`."""
    return f"<0x{byte:02X}>"


def _byte_ids(vocabulary: Vocabulary) -> dict[int, int]:
    found = {data[0]: token for token, data in vocabulary.raw_bytes.items() if len(data) == 1}
    for byte in range(256):
        if byte not in found:
            raise UnsupportedError(
                f"the vocabulary has no token for the byte {byte_piece(byte)}; Alpage runs "
                "SentencePiece vocabularies with byte fallback, which have all 256"
            )
    return found


def _check_sizes(ordinary: Mapping[str, int]) -> None:
    longest = max(ordinary, key=len, default="")
    if len(longest) > _MAX_PIECE:
        raise FormatError(
            f"token {ordinary[longest]} has {len(longest)} characters; a SentencePiece vocabulary "
            f"has at most {_MAX_PIECE} in a piece"
        )
    total = sum(map(len, ordinary))
    if total > _MAX_CHARACTERS:
        raise FormatError(
            f"the pieces have {total} characters together; a vocabulary has at most "
            f"{_MAX_CHARACTERS}"
        )


def _mergeable(vocabulary: Vocabulary, rule: SpaceRule) -> dict[str, int]:
    """Ordinary pieces without the added ones that no plain text can hold.

    Their text was cut out before, unless settling the spaces could still spell it.
    """
    ordinary = vocabulary.ordinary()
    if vocabulary.scores is not None:
        for piece in vocabulary.texts(vocabulary.added):
            if rule.scope is Scope.TEXTS or SPACE not in piece:
                ordinary.pop(piece, None)
    return ordinary


def _replaced(vocabulary: Vocabulary, ordinary: Mapping[str, int]) -> dict[int, list[int]]:
    """What sentencepiece writes instead of a piece that merging builds, but is marked as unused."""
    texts = vocabulary.texts(vocabulary.unused & frozenset(ordinary.values()))
    if vocabulary.scores is None or not texts:
        return {}
    scores = {piece: vocabulary.scores[token] for piece, token in ordinary.items()}
    byte_ids = _byte_ids(vocabulary)
    replaced: dict[int, list[int]] = {}
    for piece in sorted(texts, key=len):
        if merge_by_score(piece, scores) != [piece]:
            continue
        # Without the piece itself, merging stops at the two parts that would have built it.
        own = scores.pop(piece)
        ids: list[int] = []
        for part in merge_by_score(piece, scores):
            token = ordinary.get(part)
            if token is None or part == piece:
                ids.extend(byte_ids[byte] for byte in part.encode())
            else:
                ids.extend(replaced.get(token, (token,)))
        scores[piece] = own
        replaced[texts[piece]] = ids
    return replaced


def _rust(
    ordinary: Mapping[str, int],
    byte_ids: Mapping[int, int],
    merges: Sequence[tuple[str, str]],
    ignore_merges: bool,
) -> BpeTokenizer:
    check_merges(ordinary, merges)
    vocab = {**ordinary, **{byte_piece(byte): token for byte, token in byte_ids.items()}}
    return bpe(ordinary, vocab, merges, byte_fallback=True, ignore_merges=ignore_merges)
