"""What every kind of tokenizer file says, in one form, and the checks that all kinds share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from alpage.core.errors import FormatError


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
    merges: list[tuple[str, str]]
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
        ordinary = {piece: token for token, piece in enumerate(self.pieces) if piece}
        present = sum(map(bool, self.pieces))
        if len(ordinary) != present:
            seen: set[str] = set()
            for token, piece in enumerate(self.pieces):
                if piece and piece in seen:
                    raise FormatError(f"token {token} {piece!r:.80} is in the vocabulary twice")
                seen.add(piece or "")
        for token in (*self.special, *self.raw_bytes):
            ordinary.pop(self.pieces[token] or "", None)
        return ordinary
