"""Whether two JSON Schemas can have no value in common, so that `oneOf` is `anyOf`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from alpage.engine.schema_refs import Document
from alpage.engine.schema_values import same

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_MOST = 64  # alternatives: each is held against each other
_STEPS = 50_000
_DEPTH = 6


def all_apart(schemas: Sequence[Any], document: Document) -> bool:
    """Whether no value can satisfy two of `schemas`; False where that is not certain."""
    if len(schemas) > _MOST:
        return False
    judge = _Judge(document)
    return all(judge.apart(one, other, 0) for one, other in combinations(schemas, 2))


class _Judge:
    """Compares what values of two schemas have to have; it gives up before that takes long."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._left = _STEPS

    def apart(self, one: Any, other: Any, depth: int) -> bool:
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            return False
        one, other = self._document.resolved(one), self._document.resolved(other)
        if one is False or other is False:
            return True
        if not isinstance(one, Mapping) or not isinstance(other, Mapping):
            return False
        kinds = _kinds(one) & _kinds(other)
        if not kinds:
            return True
        first, second = _values(one), _values(other)
        if first is not None and second is not None:
            return not any(same(a, b) for a in first for b in second)
        if kinds == {"object"} and any(
            self._told_apart(name, one, other, depth) for name in {*_needed(one), *_needed(other)}
        ):
            return True
        return self._parts_apart(one, other, depth) or self._parts_apart(other, one, depth)

    def _parts_apart(self, one: Mapping[str, Any], other: Mapping[str, Any], depth: int) -> bool:
        """Whether what `one` consists of keeps it apart from `other`."""
        for key, enough in (("anyOf", all), ("oneOf", all), ("allOf", any)):
            parts = one.get(key)
            if isinstance(parts, list) and enough(
                self.apart(part, other, depth + 1) for part in parts
            ):
                return True
        return False

    def _told_apart(
        self, name: str, one: Mapping[str, Any], other: Mapping[str, Any], depth: int
    ) -> bool:
        """Whether the property `name`, which one of both needs, differs or cannot be in both."""
        found = []
        for schema, its_other in ((one, other), (other, one)):
            properties = schema.get("properties", {})
            if isinstance(properties, Mapping) and name in properties:
                found.append(properties[name])
            elif (
                schema.get("additionalProperties") is False
                and "patternProperties" not in schema
                and name in _needed(its_other)
            ):
                return True
        return len(found) == 2 and self.apart(found[0], found[1], depth + 1)


def _needed(schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str):
            yield name


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that `const` or `enum` leave."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) and len(values) <= _MOST else None


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The types that a value of `schema` can have; "integer" counts as "number"."""
    given = schema.get("type")
    listed = [given] if isinstance(given, str) else given if isinstance(given, list) else TYPES
    kinds = {kind for kind in listed if isinstance(kind, str)}
    if "integer" in kinds:
        kinds = kinds - {"integer"} | {"number"}
    values = _values(schema)
    return kinds if values is None else kinds & {_kind(value) for value in values}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
