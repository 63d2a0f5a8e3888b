"""Grammars in Lark's notation, read as far as it takes to keep their promises.

The schemas in them are checked like any other, and options that would be taken without effect are
refused by name. Everything else is read by `llguidance`.
"""

import json
import re
from typing import Any

from alpage.core.errors import UsageError
from alpage.engine.schema_check import Enforceable, SchemaError

_TOKEN = re.compile(
    r"""(?P<comment>(?://|\#)[^\n]*)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<regex>/(?:[^/\\\n]|\\.)+/)
    | (?P<json>%json\b\s*)
    | (?P<settings>%llguidance\b\s*)
    | (?P<option>\b(?:temperature|stop)\s*=)
    """,
    re.VERBOSE,
)
_JSON = "%json"
_SETTINGS = frozenset({"no_forcing", "allow_initial_skip", "ignore_once"})


def checked(text: str, option: str, layout: dict[str, Any]) -> str:
    """The grammar with its schemas as the library has to get them; UsageError with the cause."""
    parts = []
    at = schemas = 0
    while found := _TOKEN.search(text, at):
        parts.append(text[at : found.end()])
        at = found.end()
        if found["option"]:
            name = found["option"].rstrip("= \t\r\n")
            raise UsageError(f"{option} cannot be enforced: the rule option {name}=")
        if found["settings"]:
            _check_settings(text, at, option)
        if found["json"]:
            made, at = _schema(text, at, option)
            parts.append(json.dumps(made | {"x-guidance": layout}, ensure_ascii=True))
            schemas += 1
    if text.count(_JSON) != schemas:
        raise UsageError(
            f"{option} cannot be enforced: {_JSON} stands in a string, a regex or a comment"
        )
    return "".join(parts) + text[at:]


def _object(text: str, at: int, option: str, behind: str) -> tuple[dict[str, Any], int]:
    """The JSON object that begins at `at`, and where it ends."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{option} has no JSON behind {behind}: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{option} has {value!r:.60} behind {behind}, not an object")
    return value, end


def _check_settings(text: str, at: int, option: str) -> None:
    """The library takes settings that it does not know, and one that gives what is no text."""
    for name in _object(text, at, option, "%llguidance")[0]:
        if name not in _SETTINGS:
            raise UsageError(f"{option} cannot be enforced: the setting {name!r:.60}")


def _schema(text: str, at: int, option: str) -> tuple[dict[str, Any], int]:
    """The schema that begins at `at`, and where it ends."""
    value, end = _object(text, at, option, _JSON)
    try:
        found = Enforceable(value)
    except SchemaError as error:
        raise UsageError(f"{option} cannot be enforced: {_JSON}: {error}") from None
    return found.schema | {"$defs": found.definitions}, end
