"""What every kind of tokenizer file says, in one form, and the checks that all kinds share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, overload

from alpage.core.errors import FormatError


class MergeLines(Sequence[tuple[str, str]]):
    """Merges as GGUF has them: a text each, left and right part with one space between.

    `ranks` has the texts, in order of priority. Parts are cut where somebody asks for them: to
    start with, 50,000 pairs are what a process spends most of its time on.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        """`lines` have one space each, and none occurs twice."""
        self.ranks: dict[str, int] = {line: rank for rank, line in enumerate(lines)}

    def wholes(self) -> list[str]:
        """What each merge builds."""
        wholes = "\n".join(self.ranks).replace(" ", "").split("\n")  # all at once, so quickly
        if len(wholes) != len(self.ranks):  # there are none, or one has a line feed
            return [line.replace(" ", "") for line in self.ranks]
        return wholes

    def parts(self) -> list[str]:
        """Left and right part of each merge in turn."""
        return " ".join(self.ranks).split(" ") if self.ranks else []

    def __len__(self) -> int:
        return len(self.ranks)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        parts = self.parts()
        return zip(parts[::2], parts[1::2], strict=True)

    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, str]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment] # as a list


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a tokenizer file says, checked and in one form.

    `pieces[id]` is the token's text: for ordinary pieces in the byte-level alphabet, or with
    U+2581 for a space in a SentencePiece vocabulary; plain for the ids in `special` (control
    tokens) and `added` (matched in any text). None: no such token. `raw_bytes` holds tokens that
    stand for bytes not spelled by their text. `scores[id]` (finite) ranks the pieces of a
    SentencePiece vocabulary, whose file then has no merges of its own; None elsewhere.

    `unknown` (part of `special`) and `unused` are told apart for the sake of writing the
    vocabulary again, as are `names`: ids by their name in GGUF (`eot`, `unknown`, `padding`, ...)
    beyond begin and end.
    """

    pieces: Sequence[str | None]
    merges: Sequence[tuple[str, str]]
    special: frozenset[int]
    added: frozenset[int] = frozenset()
    raw_bytes: Mapping[int, bytes] = field(default_factory=dict)
    bos_id: int | None = None
    eos_id: int | None = None
    add_bos: bool = False
    stop_ids: frozenset[int] = frozenset()
    scores: Sequence[float] | None = None
    unknown: frozenset[int] = frozenset()
    unused: frozenset[int] = frozenset()
    names: Mapping[str, int] = field(default_factory=dict)

    def texts(self, ids: Iterable[int]) -> dict[str, int]:
        """Text to id of the given tokens, in the order of their ids."""
        return {piece: token for token in sorted(ids) if (piece := self.pieces[token])}

    def ordinary(self) -> dict[str, int]:
        """The pieces that merging works on: everything but control tokens and raw bytes.

        `FormatError` when two tokens have the same text.
        """
        by_piece = dict(zip(self.pieces, range(len(self.pieces)), strict=True))
        for nothing in ("", None):
            by_piece.pop(nothing, None)
        ordinary = cast(dict[str, int], by_piece)
        if len(ordinary) != sum(map(bool, self.pieces)):
            seen: set[str] = set()
            for token, piece in enumerate(self.pieces):
                if piece and piece in seen:
                    raise FormatError(f"token {token} {piece!r:.80} is in the vocabulary twice")
                seen.add(piece or "")
        for token in (*self.special, *self.raw_bytes):
            ordinary.pop(self.pieces[token] or "", None)
        return ordinary
