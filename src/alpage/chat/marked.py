"""Text that remembers which of its characters the template's author wrote.

The safety rule of chat rendering is: *only characters of template literals may form a special
token*. It is kept by positive marking. `Marked` is a `str` with a list of trusted spans; template
literals start fully trusted, everything that comes from a request is a plain `str`. Each
operation below carries the spans along; every string operation that is not written here returns a
plain `str`, which has no spans (or, where nothing changed, the same object). So an operation nobody
thought of can only lose trust, never give it to a user's text. Values stay ordinary strings for
comparison, hashing and `in`.
"""
# ruff: noqa: D102  (the methods are those of str)

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import SupportsIndex

_MANY = 100_000
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of rendered text; only in `special` ones may special tokens be recognised."""

    text: str
    special: bool


class Marked(str):
    """A string with trusted spans: sorted, disjoint, non-empty (start, end) character ranges."""

    __slots__ = ("spans",)
    spans: Spans

    def __new__(cls, text: str = "", spans: Spans = ()) -> "Marked":
        marked = super().__new__(cls, text)
        marked.spans = spans
        return marked

    @classmethod
    def literal(cls, text: str) -> "Marked":
        """All of `text` is trusted."""
        return cls(text, ((0, len(text)),) if text else ())

    def __str__(self) -> "Marked":
        return self

    def __add__(self, other: str) -> "Marked":
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> "Marked":
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> str:
        text = super().__mul__(count)
        return Marked.literal(text) if self._whole() else text

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        text = super().__getitem__(key)
        if not self.spans:
            return text
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self._cut(start, max(start, stop)) if step == 1 else text
        index = key.__index__()
        return self._cut(index + len(self) * (index < 0), index + len(self) * (index < 0) + 1)

    def _whole(self) -> bool:
        return self.spans == ((0, len(self)),)

    def _cut(self, start: int, stop: int) -> "Marked":
        spans: list[tuple[int, int]] = []
        # Found by bisection: cutting a text of many spans into many parts stays near linear.
        for index in range(bisect_right(self.spans, start, key=_end), len(self.spans)):
            low, high = self.spans[index]
            if low >= stop or start >= stop:
                break
            spans.append((max(low, start) - start, min(high, stop) - start))
        return Marked(str.__getitem__(self, slice(start, stop)), tuple(spans))

    def _tiles(self, parts: Iterable[str]) -> list[str]:
        """Give the parts of a split, in order, their spans back."""
        out: list[str] = []
        position = 0
        for part in parts:
            position = self.index(part, position)
            out.append(self._cut(position, position + len(part)))
            position += len(part)
        return out

    def _separated(self, parts: list[str], width: int) -> list[str]:
        out: list[str] = []
        position = 0
        for part in parts:
            out.append(self._cut(position, position + len(part)))
            position += len(part) + width
        return out

    def strip(self, chars: str | None = None, /) -> str:
        start = len(self) - len(super().lstrip(chars))
        return self._cut(start, max(start, len(super().rstrip(chars))))

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._cut(len(self) - len(super().lstrip(chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._cut(0, len(super().rstrip(chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return self._cut(len(self) - len(super().removeprefix(prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        return self._cut(0, len(super().removesuffix(suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        parts = super().split(sep, maxsplit)
        if not self.spans:
            return list(parts)
        return self._tiles(parts) if sep is None else self._separated(parts, len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        parts = super().rsplit(sep, maxsplit)
        if not self.spans:
            return list(parts)
        return self._tiles(parts) if sep is None else self._separated(parts, len(sep))

    def splitlines(self, keepends: bool = False) -> list[str]:
        whole = self._separated(list(super().splitlines(True)), 0)
        bare = super().splitlines(keepends)
        return [line[: len(part)] for line, part in zip(whole, bare, strict=True)]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        a, b, c = self._separated(list(super().partition(sep)), 0)
        return a, b, c

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        a, b, c = self._separated(list(super().rpartition(sep)), 0)
        return a, b, c

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        trusted_new = new.spans if isinstance(new, Marked) else ()
        if (self._whole() and trusted_new == ((0, len(new)),)) or not (self.spans or trusted_new):
            text = super().replace(old, new, count)
            return Marked.literal(text) if self.spans else text
        if not old or self.count(old) > _MANY:
            return super().replace(old, new, count)
        return concat(_between(self.split(old, count), new))

    def join(self, parts: Iterable[str], /) -> str:
        return concat(_between(parts, self))

    def _same_places(self, text: str) -> str:
        # Beyond ASCII a change of case can change lengths, and the spans would slip.
        return Marked(text, self.spans) if self.spans and self.isascii() else text

    def upper(self) -> str:
        return self._same_places(super().upper())

    def lower(self) -> str:
        return self._same_places(super().lower())

    def capitalize(self) -> str:
        return self._same_places(super().capitalize())

    def title(self) -> str:
        return self._same_places(super().title())


def _end(span: tuple[int, int]) -> int:
    return span[1]


def _between(parts: Iterable[str], separator: str) -> Iterator[str]:
    for index, part in enumerate(parts):
        if index:
            yield separator
        yield part


def concat(pieces: Iterable[str]) -> Marked:
    """Join strings; spans move along, and touching ones become one."""
    texts: list[str] = []
    spans: list[tuple[int, int]] = []
    position = 0
    for piece in pieces:
        texts.append(piece)
        if isinstance(piece, Marked):
            for low, high in piece.spans:
                if spans and spans[-1][1] == position + low:
                    spans[-1] = (spans[-1][0], position + high)
                else:
                    spans.append((position + low, position + high))
        position += len(piece)
    return Marked("".join(texts), tuple(spans))


def segments(text: str) -> list[Segment]:
    """Cut rendered text at the borders of its trusted spans."""
    out: list[Segment] = []
    position = 0
    for low, high in text.spans if isinstance(text, Marked) else ():
        if position < low:
            out.append(Segment(_plain(text, position, low), special=False))
        out.append(Segment(_plain(text, low, high), special=True))
        position = high
    if position < len(text):
        out.append(Segment(_plain(text, position, len(text)), special=False))
    return out


def _plain(text: str, start: int, stop: int) -> str:
    return str.__getitem__(text, slice(start, stop))
