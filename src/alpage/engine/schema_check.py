r"""JSON Schemas that are enforced to the letter, and those that are refused by the keyword.

`llguidance` compiles most of JSON Schema, but takes a few things silently that it does not hold
to, or holds to in a way of its own. `Enforceable` reads a schema before it, keyword by keyword, and
writes the one that the library gets: it means the same or less, so that whatever is answered is
valid. What has no such form is a SchemaError with the keyword and its place.

Dialects: draft-04, 06, 07, 2019-09 and 2020-12, by `$schema`; 2020-12 where nothing is said.

    enforced    type, enum, const, $ref (inside of the schema), allOf, anyOf, properties, required,
                additionalProperties, patternProperties (patterns that exclude each other),
                maxProperties, minProperties (at most one more than `required` has), items,
                prefixItems, additionalItems, minItems, maxItems, minLength, maxLength, pattern,
                minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf (an integer, 0.5,
                0.25, 0.125, 0.0625), oneOf (alternatives that exclude each other),
                unevaluatedProperties and unevaluatedItems (beside no other applicator)
    format      date, time, date-time, duration, email, hostname, ipv4, ipv6, uri, uuid,
                json-pointer, byte, base64, base64url; of OpenAPI int8 to uint64. `format` is a
                promise here and no remark: unknown ones are refused. password, binary, float,
                double, decimal, path, file-path and directory-path allow everything
    remarks     title, description, default, examples, deprecated, readOnly, writeOnly, $comment,
                contentEncoding, contentMediaType, contentSchema, and words that JSON Schema
                does not know, unless they are a misspelt keyword
    refused     not, if/then/else, contains, uniqueItems, dependentRequired, dependentSchemas,
                dependencies, propertyNames, $dynamicRef, $recursiveRef, $id below the top, in so
                far as they ask for something (`uniqueItems: false` does not)

Less than the schema allows, for the sake of readers that round or read patterns otherwise: numbers
with a bound are given plainly and within 2**53; `\d`, `\w` and `.` mean what they mean in every
notation of patterns; leap seconds are never given; names and strings have no `\u` escapes.
"""

import difflib
import graphlib
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from alpage.engine.schema_apart import TYPES, all_apart
from alpage.engine.schema_pattern import PatternError, translated
from alpage.engine.schema_refs import Document, UnresolvedError, dialect_of, pointed
from alpage.engine.schema_values import (
    INTEGERS,
    LARGEST,
    LENGTHS,
    LIBRARY,
    PATTERNS,
    SHOWN,
    InexactError,
    can_meet,
    check_value,
    lower_bound,
    multiple,
    steps_below,
    upper_bound,
)

_DEPTH = 100
_MOST_NODES = 50_000
_APPLICATORS = ("$ref", "allOf", "anyOf", "oneOf")
_CONJUNCTS = (*_APPLICATORS, "enum", "const")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_SINCE = {
    "const": 6,
    "contains": 6,
    "propertyNames": 6,
    "if": 7,
    "then": 7,
    "else": 7,
    "dependentRequired": 2019,
    "dependentSchemas": 2019,
    "unevaluatedItems": 2019,
    "unevaluatedProperties": 2019,
    "minContains": 2019,
    "maxContains": 2019,
    "$recursiveRef": 2019,
    "prefixItems": 2020,
    "$dynamicRef": 2020,
}
_UNTIL = {
    "extends": 3,
    "disallow": 3,
    "divisibleBy": 3,
    "dependencies": 7,
    "additionalItems": 2019,
    "$recursiveRef": 2019,
}
_NAMES = {4: "draft-04", 6: "draft-06", 7: "draft-07", 2019: "2019-09", 2020: "2020-12"}
_PLAIN = (
    "type", *_COUNTS, *_BOUNDS, "multipleOf", "pattern", "format", "required", "properties",
    "patternProperties", "additionalProperties", "items", "prefixItems", "additionalItems",
    "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_REFUSED = (
    "not", "if", "then", "else", "contains", "uniqueItems", "dependentRequired",
    "dependentSchemas", "dependencies", "propertyNames", "$dynamicRef", "$recursiveRef", "extends",
    "disallow", "divisibleBy",
)  # fmt: skip
_KEYWORDS = frozenset({*_CONJUNCTS, *_PLAIN, *_REFUSED})


class SchemaError(ValueError):
    """A schema that cannot be enforced: `keyword`, where it stands, and why."""

    def __init__(self, keywords: tuple[str, ...], path: str, why: str = "") -> None:
        named = ", ".join(f'"{keyword[:100]}"' for keyword in keywords)
        place = f" at {path[:200]}" if path else ""
        super().__init__(f"{named}{place}{': ' + why if why else ''}")
        self.keywords = keywords
        self.path = path


class Enforceable:
    """A schema that was checked; `schema` is what the library compiles."""

    def __init__(self, schema: Mapping[str, Any] | bool, names: str = "d") -> None:
        """SchemaError for what cannot be enforced; `names` begins those of its definitions."""
        self._prefix = names
        self._nodes = 0
        self._names: dict[str, str] = {}  # definitions by JSON pointer
        self._waiting: list[tuple[str, Any]] = []
        self._inside: dict[str, set[str]] = {}  # references that nothing is between
        self._here = ""
        self._multiples: set[int | float] = set()
        self._meets = False
        self._loose_keys = False
        self._odd_names = False
        root = schema if isinstance(schema, Mapping) else {} if schema else {"anyOf": [False]}
        dialect = dialect_of(root)
        if dialect is None:
            raise SchemaError(("$schema",), "", f"{root['$schema']!r:.100} is no known dialect")
        self._dialect = dialect
        self._document = Document(root, dialect)
        self.schema: dict[str, Any] = self._schema(root, "", 0, inside=True)
        self.definitions = self._define()
        self._check_whole()

    def _define(self) -> dict[str, Any]:
        made = {}
        while self._waiting:
            pointer, schema = self._waiting.pop()
            self._here = pointer
            made[self._names[pointer]] = self._schema(schema, pointer, 0, inside=True)
        return made

    def _check_whole(self) -> None:
        """What no single place can tell."""
        try:
            graphlib.TopologicalSorter(self._inside).prepare()
        except graphlib.CycleError as error:
            self._refuse("$ref", error.args[1][0], "it leads back to itself")
        if self._meets and not can_meet(self._multiples):
            self._refuse("multipleOf", "", "together they are too large")
        if self._loose_keys and self._odd_names:
            self._refuse("patternProperties", "", "names with other than plain characters")

    # One schema

    def _schema(self, schema: Any, path: str, depth: int, *, inside: bool = False) -> Any:
        """What the library gets for `schema`; `inside`: as a part of what a `$ref` points to."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            last = path.rpartition("/")[2] or "$ref"
            self._refuse(last, path, f"a schema is an object, true or false, not {schema!r:.60}")
        self._nodes += 1
        if depth > _DEPTH or self._nodes > _MOST_NODES:
            what = "nested beyond the recursion limit" if depth > _DEPTH else "too large"
            raise SchemaError(("$schema",), "", f"the schema is {what}")
        if "$ref" in schema and self._dialect <= 7:
            return {"$ref": self._ref(schema["$ref"], path, inside)}
        self._check_keywords(schema, path)
        made: dict[str, Any] = {}
        waiting = [key for key in schema if key in _PLAIN]
        for key, value in schema.items():
            if key in _CONJUNCTS:
                self._conjunct(made, key, value, path, depth, inside)
            elif key in _PLAIN and waiting:
                self._plain(made, schema, path, depth)
                waiting = []
        self._meets = self._meets or any(key in made for key in _APPLICATORS)
        return made

    def _check_keywords(self, schema: Mapping[str, Any], path: str) -> None:
        asked = tuple(key for key in _REFUSED if key in schema and _asks(schema, key))
        if asked:
            raise SchemaError(asked, path)
        for key, value in schema.items():
            if not _SINCE.get(key, 0) <= self._dialect <= _UNTIL.get(key, 9999):
                self._refuse(key, path, f"it is no keyword of {_NAMES[self._dialect]}")
            if key in ("$id", "id") and path and isinstance(value, str):
                if key == "$id" or self._dialect == 4:
                    self._refuse(key, path, "references below it would mean something else")
            elif key == "$schema" and path and dialect_of(schema) != self._dialect:
                self._refuse(key, path, "a schema has one dialect")
            elif key not in _KEYWORDS and not key.startswith(("x-", "$")):
                self._check_spelling(key, path)

    def _check_spelling(self, key: str, path: str) -> None:
        near = difflib.get_close_matches(key.lower(), _LOWER, 1, 0.88) if len(key) < 30 else []
        if near and key not in _REMARKS:
            self._refuse(key, path, f"it is no keyword; did you mean {_LOWER[near[0]]}?")

    # Keywords that hold schemas for the same value

    def _conjunct(
        self, made: dict[str, Any], key: str, value: Any, path: str, depth: int, inside: bool
    ) -> None:
        if key == "$ref":
            made[key] = self._ref(value, path, inside)
        elif key in ("const", "enum"):
            if key == "enum" and not (isinstance(value, list) and value):
                self._refuse(key, path, "it must be a list of at least one value")
            try:
                check_value(value)
            except InexactError as error:
                self._refuse(key, path, str(error))
            made[key] = value
        else:
            if not isinstance(value, list) or not value:
                self._refuse(key, path, "it must be a list of at least one schema")
            parts = [
                self._schema(part, pointed(path, key, place), depth + 1, inside=inside)
                for place, part in enumerate(value)
            ]
            if key == "oneOf":
                if not all_apart(value, self._document):
                    self._refuse(key, path, "its alternatives may hold at once")
                key = "anyOf"
            if key in made:  # oneOf beside anyOf
                made.setdefault("allOf", []).append({key: parts})
            elif key == "allOf":
                made[key] = [*parts, *made.get(key, [])]
            else:
                made[key] = parts

    def _ref(self, reference: Any, path: str, inside: bool) -> str:
        """The name of the definition that a reference means."""
        if not isinstance(reference, str):
            self._refuse("$ref", path, f"it must be a string, not {reference!r:.60}")
        try:
            pointer, schema = self._document.find(reference)
        except UnresolvedError as error:
            self._refuse("$ref", path, str(error))
        if pointer not in self._names:
            self._names[pointer] = f"{self._prefix}{len(self._names)}"
            self._waiting.append((pointer, schema))
        if inside:
            self._inside.setdefault(self._here, set()).add(pointer)
        return f"#/$defs/{self._names[pointer]}"

    # Keywords about one type each

    def _plain(
        self, made: dict[str, Any], schema: Mapping[str, Any], path: str, depth: int
    ) -> None:
        if "type" in schema:
            made["type"] = self._type(schema["type"], path)
        for key in _COUNTS:
            if key in schema:
                made[key] = self._count(schema[key], key, path)
        self._numbers(made, schema, path)
        self._strings(made, schema, path)
        self._arrays(made, schema, path, depth)
        self._objects(made, schema, path, depth)

    def _type(self, value: Any, path: str) -> Any:
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not listed:
            self._refuse("type", path, f"it must be a type or a list of types, not {value!r:.60}")
        for kind in listed:
            if kind not in TYPES:
                text = kind if isinstance(kind, str) else repr(kind)
                self._refuse("type", path, f"Invalid type: {text[:60]}")
        if "number" in listed:
            listed = [kind for kind in listed if kind != "integer"]
        return listed[0] if len(listed) == 1 else list(dict.fromkeys(listed))

    def _count(self, value: Any, key: str, path: str) -> int:
        number = self._number(value, key, path)
        if number < 0 or number != int(number):
            self._refuse(key, path, f"it must be a whole number from 0 on, not {value!r:.60}")
        return int(number)

    def _number(self, value: Any, key: str, path: str) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse(key, path, f"it must be a number, not {value!r:.60}")
        return value

    def _numbers(self, made: dict[str, Any], schema: Mapping[str, Any], path: str) -> None:
        low: list[int | float] = []
        high: list[int | float] = []
        for key in _BOUNDS:
            if key not in schema or (value := self._bound(schema, key, path)) is None:
                continue
            exclusive = key.startswith("exclusive")
            if self._dialect == 4:
                exclusive = bool(schema.get(f"exclusive{key.capitalize()}"))
            try:
                if key in ("minimum", "exclusiveMinimum"):
                    low.append(lower_bound(value, exclusive=exclusive))
                else:
                    high.append(upper_bound(value, exclusive=exclusive))
                if exclusive or value != int(value):
                    self._steps(made, key, value, exclusive)
            except InexactError as error:
                self._refuse(key, path, str(error))
        form = schema.get("format")
        if isinstance(form, str) and form in INTEGERS:
            low.append(INTEGERS[form][0])
            high.append(INTEGERS[form][1])
        made |= {"minimum": max(low)} if low else {}
        made |= {"maximum": min(high)} if high else {}
        if "multipleOf" in schema:
            self._multiple(made, schema["multipleOf"], path)

    def _steps(self, made: dict[str, Any], key: str, value: int | float, exclusive: bool) -> None:
        """Let the numbers next to a bound be written as briefly as they can be."""
        low = key.lower().endswith("minimum")
        near = steps_below(-value if low else value) if abs(value) < LARGEST else []
        if near and "number" in _listed(made):
            bounds = [{"minimum": -step} if low else {"maximum": step} for step in near]
            if low:
                bounds.append({"minimum": lower_bound(value, exclusive=exclusive)})
            else:
                bounds.append({"maximum": upper_bound(value, exclusive=exclusive)})
            made["allOf"] = [*made.get("allOf", []), {"anyOf": bounds}]

    def _bound(self, schema: Mapping[str, Any], key: str, path: str) -> int | float | None:
        value = schema[key]
        if self._dialect == 4 and key.startswith("exclusive"):
            if not isinstance(value, bool):
                self._refuse(key, path, "it is true or false in draft-04")
            return None
        return self._number(value, key, path)

    def _multiple(self, made: dict[str, Any], value: Any, path: str) -> None:
        try:
            number = multiple(self._number(value, "multipleOf", path))
        except InexactError as error:
            self._refuse("multipleOf", path, str(error))
        self._multiples.add(number)
        made["multipleOf"] = number
        if isinstance(number, int):  # 3.0000000000000001 would be rounded to 3
            kinds = ["integer" if kind == "number" else kind for kind in _listed(made)]
            made["type"] = list(dict.fromkeys(kinds))

    def _strings(self, made: dict[str, Any], schema: Mapping[str, Any], path: str) -> None:
        if "pattern" in schema:
            made["pattern"] = self._pattern(schema["pattern"], "pattern", path)[0]
        form = schema.get("format")
        if form is None:
            return
        if not isinstance(form, str) or form not in _FORMATS:
            self._refuse("format", path, f"Unknown format: {str(form)[:60]}")
        if form in LIBRARY:
            made["format"] = form
        elif form in PATTERNS:
            own = translated(PATTERNS[form]).text
            if "pattern" in made:
                made["allOf"] = [*made.get("allOf", []), {"pattern": own}]
            else:
                made["pattern"] = own
            if form in LENGTHS:
                made["maxLength"] = min(LENGTHS[form], made.get("maxLength", LENGTHS[form]))

    def _pattern(self, value: Any, key: str, path: str) -> tuple[str, bool]:
        if not isinstance(value, str):
            self._refuse(key, path, f"it must be a string, not {value!r:.60}")
        try:
            found = translated(value)
        except PatternError as error:
            self._refuse(key, path, str(error))
        return found.text, found.exact

    def _arrays(
        self, made: dict[str, Any], schema: Mapping[str, Any], path: str, depth: int
    ) -> None:
        first, rest = ("prefixItems", "items") if self._dialect >= 2020 else ("items", None)
        items = schema.get("items")
        if self._dialect < 2020:
            first, rest = ("items", "additionalItems") if isinstance(items, list) else ("", "items")
        elif isinstance(items, list):
            self._refuse("items", path, "a list of schemas is prefixItems in 2020-12")
        if first and first in schema:
            given = schema[first]
            if not isinstance(given, list) or not given:
                self._refuse(first, path, "it must be a list of at least one schema")
            made["prefixItems"] = [
                self._schema(part, pointed(path, first, place), depth + 1)
                for place, part in enumerate(given)
            ]
        rest = self._instead(schema, rest or "items", "unevaluatedItems", path)
        if rest in schema:
            made["items"] = self._schema(schema[rest], pointed(path, rest), depth + 1)

    def _instead(self, schema: Mapping[str, Any], key: str, unevaluated: str, path: str) -> str:
        """`unevaluated` where it says what `key` would say, else `key`."""
        if key in schema or schema.get(unevaluated, True) in (True, {}):
            return key
        if any(other in schema for other in _APPLICATORS):
            self._refuse(unevaluated, path, "it depends on other keywords")
        return unevaluated

    def _objects(
        self, made: dict[str, Any], schema: Mapping[str, Any], path: str, depth: int
    ) -> None:
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            self._refuse("required", path, f"it must be a list of names, not {required!r:.60}")
        if required:
            made["required"] = list(dict.fromkeys(required))
        rest = self._instead(schema, "additionalProperties", "unevaluatedProperties", path)
        exact = True
        for key in ("properties", "patternProperties", rest):
            if key not in schema:
                continue
            place = pointed(path, key)
            if key == rest:
                made["additionalProperties"] = self._schema(schema[key], place, depth + 1)
                continue
            if not isinstance(schema[key], Mapping):
                self._refuse(key, path, f"it must be an object, not {schema[key]!r:.60}")
            made[key] = {}
            for name, part in schema[key].items():
                target = name
                if key == "patternProperties":
                    target, same = self._pattern(name, key, path)
                    exact = exact and same
                found = self._schema(part, pointed(place, name), depth + 1)
                known = target in made[key]  # two patterns that mean the same
                made[key][target] = {"allOf": [made[key][target], found]} if known else found
        names = [*required, *made.get("properties", {})]
        self._odd_names = self._odd_names or not all(map(_PRINTABLE.fullmatch, names))
        if not exact:  # a name that some reader would count among the patterns is left out
            self._loose_keys = True
            made["additionalProperties"] = False
        if made.get("minProperties", 0) > len(made.get("required", [])) + 1:
            self._refuse(
                "minProperties", path, "names could repeat; at most one more than `required` has"
            )

    def _refuse(self, keyword: str, path: str, why: str = "") -> NoReturn:
        raise SchemaError((keyword,), path, why)


_FORMATS = frozenset({*PATTERNS, *LIBRARY, *SHOWN, *INTEGERS})
_PRINTABLE = re.compile(r"[ -~]*")
_REMARKS = frozenset({"nullable", "example", "examples", "title", "description", "default"})
_LOWER = {key.lower(): key for key in sorted(_KEYWORDS)}


def _listed(schema: Mapping[str, Any]) -> list[str]:
    """The types that a schema names, or all."""
    given = schema.get("type", [kind for kind in TYPES if kind != "integer"])
    return [given] if isinstance(given, str) else list(given)


def _asks(schema: Mapping[str, Any], key: str) -> bool:
    """Whether a keyword that cannot be enforced asks for anything."""
    value = schema[key]
    if key == "uniqueItems":
        most = schema.get("maxItems")
        return not (value is False or (isinstance(most, int) and most <= 1))
    if key == "if":
        return "then" in schema or "else" in schema
    if key in ("then", "else"):
        return "if" in schema
    if key == "contains":
        return schema.get("minContains") != 0 or "maxContains" in schema
    if key == "not":
        return value is not False
    if key in ("dependentRequired", "dependentSchemas", "dependencies"):
        return bool(value != {})
    return key != "propertyNames" or not (value is True or value == {})
