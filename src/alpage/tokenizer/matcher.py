"""Find whole tokens (special or added ones) in text: leftmost first, longest first."""

import re
from collections.abc import Iterator, Mapping

_KEY = 3
_MANY = 256  # first characters; the vocabularies in use have a handful


class TokenMatcher:
    """Cuts text at the occurrences of a fixed set of token texts.

    One regular expression finds where a token could begin (by its first two characters); then
    dictionaries decide, by the first three characters and each distinct length behind them. Of
    very many first characters no expression is made: it alone would take seconds.
    Time is linear in the text, whatever the number of tokens.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        """`ids`: token text to id; empty texts are not allowed."""
        self._ids = dict(ids)
        lengths: dict[str, set[int]] = {}
        seconds: dict[str, set[str]] = {}
        for text in self._ids:
            lengths.setdefault(text[:_KEY], set()).add(len(text))
            seconds.setdefault(text[0], set()).add(text[1:2])
        self._lengths = {key: sorted(found, reverse=True) for key, found in lengths.items()}
        starts = []
        self._firsts = seconds.keys()
        for first, follow in sorted(seconds.items()) if len(seconds) <= _MANY else ():
            # A token of one character can begin before anything.
            rest = "" if "" in follow else f"[{''.join(map(re.escape, sorted(follow)))}]"
            starts.append(re.escape(first) + rest)
        self._start = re.compile("|".join(starts)) if starts else None

    def split(self, text: str) -> Iterator[str | int]:
        """Yield the parts of `text` in order: plain text (never empty) and token ids."""
        begin = position = 0
        while (at := self._find(text, position)) >= 0:
            token = self._longest(text, at)
            if token is None:
                position = at + 1
                continue
            if at > begin:
                yield text[begin:at]
            yield self._ids[token]
            begin = position = at + len(token)
        if begin < len(text):
            yield text[begin:]

    def _find(self, text: str, position: int) -> int:
        """The next place where a token could begin; -1 if there is none."""
        if self._start is not None:
            found = self._start.search(text, position)
            return found.start() if found else -1
        places = range(position, len(text)) if self._firsts else ()
        return next((at for at in places if text[at] in self._firsts), -1)

    def _longest(self, text: str, at: int) -> str | None:
        # Texts shorter than the key are their own key, so they are tried last.
        for size in range(min(_KEY, len(text) - at), 0, -1):
            key = text[at : at + size]
            for length in self._lengths.get(key, ()):
                candidate = text[at : at + length]
                if candidate in self._ids:
                    return candidate
        return None
