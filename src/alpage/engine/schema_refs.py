"""The document that a JSON Schema is: its dialect, and what its references point to."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_DIALECT = re.compile(r"https?://json-schema\.org/(?:draft[-/](0[467]|2019-09|2020-12)/)?schema#?")
_NUMBERS = {"04": 4, "06": 6, "07": 7, "2019-09": 2019, "2020-12": 2020}


class UnresolvedError(ValueError):
    """A reference that leads nowhere, or out of the schema."""


def dialect_of(schema: Mapping[str, Any]) -> int | None:
    """4, 6, 7, 2019 or 2020 (also where nothing is said); None for what is no known dialect."""
    given = schema.get("$schema")
    if given is None:
        return 2020
    found = _DIALECT.fullmatch(given) if isinstance(given, str) else None
    return None if found is None else _NUMBERS[found.group(1) or "2020-12"]


class Document:
    """A whole schema, in which references are looked up."""

    def __init__(self, root: Mapping[str, Any], dialect: int) -> None:
        self._root = root
        self.dialect = dialect
        self._base = root.get("id" if dialect == 4 else "$id")

    def find(self, reference: str) -> tuple[str, Any]:
        """The JSON pointer and the schema that a `$ref` means."""
        base, sign, pointer = reference.partition("#")
        own = self._base.rstrip("#") if isinstance(self._base, str) else ""
        if base and base != own:
            raise UnresolvedError(f"{reference[:200]} is outside of the schema")
        pointer = unquote(pointer) if sign else ""
        if pointer and not pointer.startswith("/"):
            raise UnresolvedError(
                f"{reference[:200]} is an anchor; give a JSON pointer (#/$defs/...)"
            )
        found: Any = self._root
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise UnresolvedError(f"{reference[:200]} points to nothing")
        return pointer, found

    def resolved(self, schema: Any) -> Any:
        """The schema behind references that stand alone; what cannot be followed stays as it is."""
        for _ in range(32):
            if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
                break
            if self.dialect >= 2019 and any(key in schema for key in _IN_PLACE):
                break
            try:
                schema = self.find(schema["$ref"])[1]
            except UnresolvedError:
                break
        return schema


_IN_PLACE = ("allOf", "anyOf", "oneOf", "properties", "type", "enum", "const")


def pointed(path: str, *names: str | int) -> str:
    """A longer JSON pointer."""
    escaped = (str(name).replace("~", "~0").replace("/", "~1") for name in names)
    return "/".join((path, *escaped))
