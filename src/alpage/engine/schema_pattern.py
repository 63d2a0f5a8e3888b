r"""Patterns of JSON Schemas, in ECMA-262's notation, as regular expressions of `llguidance`.

The two notations mean different things by the same text (`.`, `\d`, `[[a]`), and so does
Python's, in which many validators read patterns. What comes out matches only what all of them
match: narrower now and then, never wider.
"""

import re
from dataclasses import dataclass
from typing import NoReturn

_QUANTIFIER = re.compile(r"\{(\d+)(,(\d*))?\}")
_HEX = re.compile(r"[0-9A-Fa-f]+")
_GROUPS = ("(?:", "(?<")
_LOOKS = ("(?=", "(?!", "(?<=", "(?<!")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_DOT = r"[^\n\r\x{2028}\x{2029}]"
_SPACES = r" \t\n\r\x0b\x0c"
_ANY_SPACES = r"\s\x1c-\x1f\x{feff}\x{180e}"
# Inside of a class: at most what every notation means, and at least.
_NARROW = {
    "d": "0-9",
    "D": r"\P{Nd}",
    "w": "A-Za-z0-9_",
    "W": r"[^\p{L}\p{N}\p{M}_]",
    "s": _SPACES,
    "S": f"[^{_ANY_SPACES}]",
}
_WIDE = {
    "d": r"0-9\p{Nd}",
    "D": "[^0-9]",
    "w": r"\p{L}\p{N}\p{M}_",
    "W": "[^A-Za-z0-9_]",
    "s": _ANY_SPACES,
    "S": f"[^{_SPACES}]",
}


class PatternError(ValueError):
    """What a pattern asks for that cannot be enforced."""


@dataclass(frozen=True, slots=True)
class Translated:
    """A pattern for `llguidance`; `exact` unless it matches less than the original."""

    text: str
    exact: bool


def translated(pattern: str) -> Translated:
    """The pattern in the library's notation; PatternError for what cannot be enforced."""
    reader = _Reader(pattern)
    return Translated(reader.whole(), reader.exact)


class _Reader:
    """One pass over a pattern; it checks as much as it has to understand, the library the rest."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self.exact = True

    def whole(self) -> str:
        parts = []
        repeats = False  # whether a quantifier may stand here
        while self._at < len(self._text):
            part, repeats = self._next(repeats)
            parts.append(part)
        return "".join(parts)

    def _next(self, repeats: bool) -> tuple[str, bool]:
        """The next part, and whether it can be repeated."""
        sign = self._text[self._at]
        if sign in "*+?{":
            return self._quantifier(repeats)
        if sign == "[":
            return self._class(), True
        if sign == "(":
            return self._group(), False
        self._at += 1
        if sign == "\\":
            return self._escape(), True
        if sign == ".":
            self.exact = False
            return _DOT, True
        if sign in "^$|":
            return sign, False
        if sign == ")":
            return sign, True
        return _literal(sign), True

    def _quantifier(self, repeats: bool) -> tuple[str, bool]:
        sign = self._text[self._at]
        found = _QUANTIFIER.match(self._text, self._at)
        if sign == "{" and found is None:
            if self._text.startswith("{,", self._at):
                self._refuse("{, without a lower bound")
            self._at += 1
            return r"\{", True
        if not repeats:
            self._refuse("a quantifier with nothing to repeat")
        whole = found.group() if found and sign == "{" else sign
        self._at += len(whole)
        if self._text.startswith("?", self._at):  # lazy: the same texts match
            self._at += 1
        return whole, False

    def _group(self) -> str:
        for look in _LOOKS:
            if self._text.startswith(look, self._at):
                self._refuse(f"look-around {look}")
        if not self._text.startswith("(?", self._at):
            self._at += 1
            return "(?:"
        if not self._text.startswith(_GROUPS, self._at):
            self._refuse(f"the group {self._text[self._at : self._at + 4]}")
        if self._text.startswith("(?:", self._at):
            self._at += 3
            return "(?:"
        end = self._text.find(">", self._at)
        if end < 0 or not self._text[self._at + 3 : end].isidentifier():
            self._refuse("a group without a name")
        self._at = end + 1
        return "(?:"

    def _escape(self) -> str:
        """What stands behind a backslash, outside of a class."""
        kind = self._text[self._at : self._at + 1]
        if kind in _NARROW and kind:
            self._at += 1
            self.exact = False
            return f"[{_NARROW[kind]}]"
        if kind in ("b", "B"):
            self._refuse(f"look-around \\{kind}")
        return _literal(self._character())

    def _character(self) -> str:
        """One escaped character, behind its backslash."""
        if self._at >= len(self._text):
            self._refuse("a backslash at its end")
        kind = self._text[self._at]
        self._at += 1
        if kind == "0" and self._text[self._at : self._at + 1].isdigit():
            self._refuse("an octal escape")
        if kind in _CONTROLS:
            return _CONTROLS[kind]
        if kind in "xu":
            return self._code(2 if kind == "x" else 4)
        if kind.isalnum():
            what = "a back-reference" if kind.isdigit() or kind == "k" else "the escape"
            self._refuse(f"{what} \\{kind}")
        return kind

    def _code(self, digits: int) -> str:
        found = self._text[self._at : self._at + digits]
        if len(found) < digits or not _HEX.fullmatch(found):
            self._refuse(f"an escape without {digits} digits")
        self._at += digits
        code = int(found, 16)
        if 0xD800 <= code < 0xE000:
            self._refuse("half of a surrogate pair")
        return chr(code)

    def _class(self) -> str:
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        sets = _WIDE if negated else _NARROW
        parts: list[str] = []
        while not self._text.startswith("]", self._at):
            parts.append(self._item(sets))
        self._at += 1
        if not parts:
            self._refuse("an empty class")
        return f"[{'^' * negated}{''.join(parts)}]"

    def _item(self, sets: dict[str, str]) -> str:
        """One character of a class, a range, or a set such as that of digits."""
        first = self._member(sets)
        if not self._text.startswith("-", self._at) or self._text.startswith("-]", self._at):
            return first if len(first) > 1 else _literal(first)
        if len(first) > 1:
            self._refuse("a range that begins with a set")
        self._at += 1
        last = self._member(sets)
        if len(last) > 1 or last < first:
            self._refuse("a range without an end")
        return f"{_literal(first)}-{_literal(last)}"

    def _member(self, sets: dict[str, str]) -> str:
        """One character, or the text of a set, which is longer."""
        if self._at >= len(self._text):
            self._refuse("a class without an end")
        sign = self._text[self._at]
        self._at += 1
        if sign != "\\":
            return sign
        kind = self._text[self._at : self._at + 1]
        if kind and kind in sets:
            self._at += 1
            self.exact = False
            return sets[kind]
        if kind == "b":  # a backspace, here
            self._at += 1
            return "\b"
        return self._character()

    def _refuse(self, what: str) -> NoReturn:
        raise PatternError(f"{what} in {self._text[:80]!r}")


def _literal(character: str) -> str:
    """One character that means nothing but itself."""
    if character.isalnum() or character in " <>/_":
        return character
    if character.isascii() and character.isprintable():
        return "\\" + character
    return f"\\x{{{ord(character):x}}}"
