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
    | (?P<option>\b(?:temperature|stop)\s*=)
    """,
    re.VERBOSE,
)
_JSON = "%json"


def checked(text: str, option: str, layout: dict[str, Any]) -> str:
    """The grammar with its schemas as the library has to get them; UsageError with the cause."""
    parts = []
    at = schemas = 0
    while found := _TOKEN.search(text, at):
        parts.append(text[at : found.end()])
        at = found.end()
        if found["option"]:
            name = found["option"].rstrip("= \t\r\n")
            raise UsageError(f"{option}: the rule option {name}= cannot be enforced")
        if found["json"]:
            made, at = _schema(text, at, option)
            parts.append(json.dumps(made | {"x-guidance": layout}, ensure_ascii=True))
            schemas += 1
    if text.count(_JSON) != schemas:
        raise UsageError(f"{option}: {_JSON} stands in a string, a regex or a comment")
    return "".join(parts) + text[at:]


def _schema(text: str, at: int, option: str) -> tuple[dict[str, Any], int]:
    """The schema that begins at `at`, and where it ends."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{option}: behind {_JSON} stands no JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{option}: behind {_JSON} stands {value!r:.60}, not an object")
    try:
        found = Enforceable(value)
    except SchemaError as error:
        raise UsageError(f"{option}: {_JSON}: {error}") from None
    return found.schema | {"$defs": found.definitions}, end
