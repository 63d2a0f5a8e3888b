"""Typed access to the key/value part of a file that may say anything."""

import json
from pathlib import Path
from typing import Any

from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.mapped import read_text


class Fields:
    """Values by key; a value of another type is refused with its key and what would be right.

    A missing key and JSON's null both mean the default; without a default they are an error.
    """

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self.values = values

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number. A list is a model whose layers differ, which Alpage does not run."""
        value = self._get(key, default)
        if type(value) is list:
            raise UnsupportedError(
                f"{self.path}: {key} differs between layers; Alpage runs models whose layers are "
                "equal"
            )
        if type(value) is not int:
            raise self._wrong(key, "a whole number", value)
        if value.bit_length() > 64:
            raise self._wrong(key, "a whole number of at most 64 bits", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number, whole or not; one too large for a float becomes infinite."""
        value = self._get(key, default)
        if type(value) not in (int, float):
            raise self._wrong(key, "a number", value)
        try:
            return float(value)
        except OverflowError:
            raise self._wrong(key, "a number of reasonable size", value) from None

    def text(self, key: str) -> str | None:
        """A text, or None where there is none."""
        value = self.values.get(key)
        if value is not None and type(value) is not str:
            raise self._wrong(key, "text", value)
        return value

    def word(self, key: str) -> str | None:
        """A short text that names a kind of something, fit to appear in a message."""
        value = self.text(key)
        if value is not None and not is_plain(value, 64):
            raise self._wrong(key, "a short word", value)
        return value

    def label(self, key: str) -> str | None:
        """A text for people's eyes, made fit for a terminal; None where there is none."""
        value = self.text(key)
        return None if value is None else clean(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if type(value) is not bool:
            raise self._wrong(key, "true or false", value)
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts; empty where there is none."""
        value = self._get(key, [])
        if type(value) is not list or (value and type(value[0]) is not str):
            raise self._wrong(key, "a list of texts", value)
        return value

    def section(self, key: str) -> "Fields | None":
        """A nested object, or None where there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) is not dict:
            raise self._wrong(key, "an object", value)
        return Fields(self.path, value)

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise FormatError(f"{self.path} lacks {key}")
        return value

    def _wrong(self, key: str, right: str, value: object) -> FormatError:
        return FormatError(f"{self.path}: {key} should be {right}, not {_short(value)}")


def is_plain(text: str, limit: int) -> bool:
    """Whether `text` is short and free of control characters (they could command a terminal)."""
    return len(text) <= limit and text.isprintable()


def clean(text: str) -> str:
    """At most 200 printable characters of `text`."""
    return "".join(letter for letter in text[:200] if letter.isprintable())


def read_json(path: Path, limit: int) -> Fields:
    """The object in a JSON file of at most `limit` bytes."""
    return parse_json(read_text(path, limit), path)


def parse_json(text: str, path: Path) -> Fields:
    """The object that `text`, from the file `path`, is; `FormatError` for anything else."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is damaged: it is not valid JSON ({error})") from None
    if type(value) is not dict:
        raise FormatError(f"{path} is damaged: it should hold a JSON object, not {_short(value)}")
    return Fields(path, value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r:.80} occurs twice")
            seen.add(key)
    return result


def _short(value: object) -> str:
    """`value` in at most 80 characters, without building more than that of a long one."""
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    return repr(value)
