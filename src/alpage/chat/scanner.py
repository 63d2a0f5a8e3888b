"""Tells, piece by piece, whether an answer may still be nothing but tool calls.

A model that writes calls without any tag gives an answer that *is* the call: JSON objects or a
Python-like list, and nothing else. These scanners read every character once and say as early as
they can that an answer is something else, so that ordinary text is not held back.
"""

import re

from alpage.chat.calls import CALL_KEYS, TERMINATORS

_JSON_MARK = re.compile(r'["\\{}\[\],:]')
_IN_JSON_STRING = re.compile(r'["\\]')
_STRING_MARK = re.compile(r'["\\\n]')
_PYTHON_MARK = re.compile(r"[\"'()\[\]{}]")
_LIST_START = re.compile(r"\[\s{0,200}[A-Za-z_][\w.]{0,300}\s{0,200}\(", re.ASCII)
_LIST_PARTIAL = re.compile(r"\[\s{0,200}(?:[A-Za-z_][\w.]{0,300}\s{0,200})?", re.ASCII)
_AFTER = re.compile(r"[\s;,]*")
_ENDING = re.compile(r"\s+|" + "|".join(re.escape(end) for end in TERMINATORS))
_LONGEST_KEY = max(len(key) for key in CALL_KEYS)


class JsonCandidate:
    """An answer that began with `{`: call objects as long as their top-level keys are a call's."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._expects_key = False
        self._key: str | None = None
        self._tail = _Tail()

    def feed(self, text: str) -> bool:
        """Read more; False as soon as the whole can not be a sequence of call objects."""
        position = 0
        while position < len(text):
            if self._in_string:
                position = self._string(text, position)
            elif self._depth:
                position = self._structure(text, position)
            else:
                position = self._between(text, position)
            if position < 0:
                return False
        return True

    def _between(self, text: str, position: int) -> int:
        if not self._tail.empty:
            return len(text) if self._tail.feed(text[position:]) else -1
        match = _AFTER.match(text, position)
        position = match.end() if match else position
        if position == len(text):
            return position
        if text[position] == "{":
            self._depth, self._expects_key = 1, True
            return position + 1
        return len(text) if self._tail.feed(text[position:]) else -1

    def _structure(self, text: str, position: int) -> int:
        match = _JSON_MARK.search(text, position)
        if match is None:
            return len(text)
        mark = match.group()
        if mark == '"':
            self._in_string = True
            self._key = "" if self._depth == 1 and self._expects_key else None
        elif mark in "{[":
            self._depth += 1
        elif mark in "}]":
            self._depth -= 1
        elif self._depth == 1 and mark in ",:":
            self._expects_key = mark == ","
        return match.end()

    def _string(self, text: str, position: int) -> int:
        if self._escaped:
            self._escaped = False
            return position + 1
        match = _IN_JSON_STRING.search(text, position)
        end = match.start() if match else len(text)
        if self._key is not None:
            self._key += text[position : min(end, position + _LONGEST_KEY + 1)]
            if len(self._key) > _LONGEST_KEY:
                return -1
        if match is None:
            return end
        if match.group() == "\\":
            self._escaped = True
            # No key of a call needs an escape; a key with one is not a call's.
            return -1 if self._key is not None else match.end()
        self._in_string = False
        if self._key is not None and self._key not in CALL_KEYS:
            return -1
        self._key = None
        return match.end()


class JsonStrings:
    """Whether JSON text ends inside of a string, as far as it was fed."""

    def __init__(self) -> None:
        self._inside = False
        self._escaped = False

    def feed(self, text: str) -> bool:
        """Read more; whether a string is open behind it. A line break ends one that is broken."""
        position = 0
        while position < len(text):
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            match = _STRING_MARK.search(text, position)
            if match is None:
                break
            position = match.end()
            if match.group() == "\\":
                self._escaped = self._inside
            else:
                self._inside = match.group() == '"' and not self._inside
        return self._inside


class PythonCandidate:
    """An answer that began with `[`: a list of calls as long as `[name(` stands at its start."""

    def __init__(self) -> None:
        self._start: str | None = ""
        self._depth = 0
        self._quote = ""
        self._escaped = False
        self._tail = _Tail()

    def feed(self, text: str) -> bool:
        """Read more; False as soon as the whole can not be a list of calls."""
        if self._start is not None:
            self._start += text
            if _LIST_START.match(self._start):
                text, self._start = self._start, None
            else:
                return _LIST_PARTIAL.fullmatch(self._start) is not None
        position = 0
        while position < len(text):
            if self._quote:
                position = self._string(text, position)
            elif self._depth or (self._tail.empty and text[position] == "["):
                position = self._structure(text, position)
            elif self._tail.feed(text[position:]):
                position = len(text)
            else:
                return False
        return True

    def _structure(self, text: str, position: int) -> int:
        match = _PYTHON_MARK.search(text, position)
        if match is None:
            return len(text)
        mark = match.group()
        if mark in "\"'":
            self._quote = mark
        else:
            self._depth += 1 if mark in "([{" else -1
            if not self._depth:
                self._tail.feed(" ")
        return match.end()

    def _string(self, text: str, position: int) -> int:
        while position < len(text):
            character = text[position]
            position += 1
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == self._quote:
                self._quote = ""
                break
        return position


class _Tail:
    """What may follow the last call: spaces and the tokens that end an answer."""

    def __init__(self) -> None:
        self.empty = True
        self._text = ""

    def feed(self, text: str) -> bool:
        self.empty = False
        text = self._text + text
        position = 0
        while match := _ENDING.match(text, position):
            position = match.end()
        self._text = text[position:]
        return any(end.startswith(self._text) for end in TERMINATORS)
