"""Schemas that are enforced to the letter, and those that are refused by the keyword at fault."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alpage.core.errors import UsageError
from alpage.engine.grammar import Grammar, GrammarCompiler
from alpage.engine.schema_pattern import PatternError, translated
from alpage.llama.text import load_text_side
from alpage.tokenizer import Tokenizer
from alpage.weights.source import open_model

D4 = {"$schema": "http://json-schema.org/draft-04/schema#"}
D7 = {"$schema": "http://json-schema.org/draft-07/schema#"}
A: dict[str, Any] = {"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]}
B: dict[str, Any] = {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]}
OPEN: dict[str, Any] = {"type": "object"}


@pytest.fixture(scope="module")
def tokenizer(smollm2_path: Path) -> Tokenizer:
    with open_model(smollm2_path) as source:
        return load_text_side(source).tokenizer


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    yield made
    made.close()


def spells(
    compiler: GrammarCompiler, tokenizer: Tokenizer, schema: Any, text: str, kind: str = "schema"
) -> bool:
    """Whether a complete answer can be `text`."""
    grammar = Grammar.lark(schema) if kind == "lark" else Grammar.json_schema(schema)
    constraint = compiler.begin(grammar, None)
    for token in tokenizer.encode_inside(text):
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return constraint.complete


@pytest.mark.parametrize(
    ("schema", "keyword", "place"),
    [
        ({"properties": {"a": {"not": {}}}}, "not", "/properties/a"),
        ({"items": {"if": {}, "then": {}, "else": {}}}, "if", "/items"),
        ({"contains": {"type": "null"}}, "contains", ""),
        ({"type": "array", "uniqueItems": True, "maxItems": 2}, "uniqueItems", ""),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired", ""),
        ({"dependentSchemas": {"a": {}}}, "dependentSchemas", ""),
        (D7 | {"dependencies": {"a": ["b"]}}, "dependencies", ""),
        ({"dependencies": {"a": ["b"]}}, "dependencies", ""),
        ({"propertyNames": {"maxLength": 3}}, "propertyNames", ""),
        ({"$dynamicRef": "#x"}, "$dynamicRef", ""),
        ({"anyOf": [{}, {"unevaluatedProperties": False, "anyOf": [{}]}]},
         "unevaluatedProperties", "/anyOf/1"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf", ""),
        ({"items": {"oneOf": [A, OPEN]}}, "oneOf", "/items"),
        ({"oneOf": [A, {"required": ["z"]}]}, "oneOf", ""),
        ({"minProperties": 2}, "minProperties", ""),
        ({"multipleOf": 0.01}, "multipleOf", ""),
        ({"multipleOf": 0}, "multipleOf", ""),
        ({"allOf": [{"multipleOf": 99999}, {"multipleOf": 99998}]}, "multipleOf", ""),
        ({"const": 9007199254740993}, "const", ""),
        ({"enum": [1, {"a": [0.12345678901234567]}]}, "enum", ""),
        ({"enum": []}, "enum", ""),
        ({"minimum": 1e19}, "minimum", ""),
        ({"exclusiveMinimum": True}, "exclusiveMinimum", ""),
        (D4 | {"exclusiveMinimum": 3}, "exclusiveMinimum", ""),
        (D4 | {"const": 3}, "const", ""),
        (D7 | {"prefixItems": [{}]}, "prefixItems", ""),
        ({"items": [{}]}, "items", ""),
        ({"prefixItems": [{}], "additionalItems": False}, "additionalItems", ""),
        ({"format": "colour"}, "format", ""),
        ({"format": "unknown"}, "format", ""),
        ({"type": "integer", "format": "epoch"}, "format", ""),
        ({"pattern": "a(?=b)"}, "pattern", ""),
        ({"pattern": r"(a)\1"}, "pattern", ""),
        ({"patternProperties": {"(?<!x)y": {}}}, "patternProperties", ""),
        ({"type": "strnig"}, "type", ""),
        ({"type": []}, "type", ""),
        ({"required": True}, "required", ""),
        ({"minLength": -1}, "minLength", ""),
        ({"maxItems": 1.5}, "maxItems", ""),
        ({"properties": {"a": 3}}, "a", "/properties/a"),
        ({"properties": {"a/b": {"items": {"maxlength": 3}}}}, "maxlength",
         "/properties/a~1b/items"),
        ({"$ref": "http://127.0.0.1/x"}, "$ref", ""),
        ({"$ref": "#/$defs/none"}, "$ref", ""),
        ({"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}}, "$ref", ""),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "$ref",
         "/$defs/a"),
        ({"$ref": "#"}, "$ref", ""),
        ({"properties": {"a": {"$id": "http://127.0.0.1/y"}}}, "$id", "/properties/a"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "$schema", ""),
        ({"$schema": "http://127.0.0.1/"}, "$schema", ""),
    ],
)  # fmt: skip
def test_the_keyword_at_fault_is_named(schema: Any, keyword: str, place: str) -> None:
    with pytest.raises(UsageError) as caught:
        Grammar.json_schema(schema)
    text = str(caught.value)
    assert text.startswith("json_schema cannot be enforced: ")
    assert f'"{keyword}"' in text
    assert (re.search(r'" at (/[^\s:]+)', text) or [None, ""])[1] == place
    assert len(text) < 500


@pytest.mark.parametrize(
    "schema",
    [
        {"uniqueItems": False, "not": False, "if": {"type": "null"}, "contains": {},
         "minContains": 0, "dependentRequired": {}, "propertyNames": True,
         "unevaluatedItems": True, "type": "null"},
        {"type": "array", "uniqueItems": True, "maxItems": 1},
        {"title": "t", "description": "d", "default": 1, "examples": [2], "deprecated": True,
         "readOnly": True, "writeOnly": False, "$comment": "c", "contentEncoding": "base64",
         "contentMediaType": "text/plain", "x-order": 3, "nullable": True, "discriminator": {}},
        {"properties": {"not": {"type": "null"}, "$ref": {}, "if": {}}, "required": ["not"]},
        {"enum": [{"not": 1}, {"$ref": "#/x"}, {"minimum": 1e300}["minimum"] > 0]},
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_no_fault(compiler: GrammarCompiler, schema: Any) -> None:
    compiler.check(Grammar.json_schema(schema), None)


TREE: dict[str, Any] = {
    "$ref": "#/definitions/a%7E1b",
    "definitions": {
        "a/b": {
            "type": "object",
            "properties": {"n": {"$ref": "#/definitions/a~1b"}, "v": {"type": "null"}},
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        # A second spelling of a name would stand beside the schema's own.
        (OPEN | {"properties": {"a": {"type": "null"}}}, ['{"a": null}', '{"b": 1}'],
         ['{"\\u0061": 1}', '{"a": 1}']),
        ({"type": "string", "format": "date"}, ['"2024-02-29"', '"2023-02-28"', '"2000-02-29"'],
         ['"2023-02-29"', '"1900-02-29"', '"0000-01-01"', '"2023-04-31"', '"x"']),
        ({"type": "string", "format": "date", "pattern": "^2"}, ['"2024-02-29"'],
         ['"1999-01-01"', '"2x"']),
        ({"type": "string", "format": "date-time"}, ['"2024-02-29T23:59:59.5Z"'],
         ['"2024-02-29T23:59:60Z"', '"2024-02-29 10:00:00Z"', '"2024-02-29T10:00:00"']),
        ({"type": "integer", "format": "int32"}, ["2147483647", "-2147483648"], ["2147483648"]),
        ({"format": "date"}, ["3", '"2024-01-01"'], ['"x"']),
        # Digits that a reader rounds onto the bound.
        ({"type": "number", "exclusiveMaximum": 2}, ["1.99991", "1.9", "1.99", "1", "-3"],
         ["2", "1.99999999999999999999"]),
        ({"type": ["number", "null"], "exclusiveMinimum": -1, "exclusiveMaximum": 1},
         ["-0.9", "0.9", "0", "null"], ["-1", "1", "0.99999999999999999999"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.5", "0.25"],
         ["0", "0.0", "0.00000000000000000000001"]),
        ({"type": "number", "maximum": 1.9999999999999998}, ["1.9", "1.99"],
         ["2", "1.99999999999999999"]),
        ({"type": "number", "maximum": 1.25}, ["1.2", "1.25", "1.20", "1"], ["1.251", "1.3"]),
        (D4 | {"type": "integer", "minimum": 3, "exclusiveMinimum": True}, ["4"], ["3"]),
        (D4 | {"type": "integer", "minimum": 3, "exclusiveMinimum": False}, ["3"], ["2"]),
        ({"type": "integer", "maximum": 1e30}, ["9007199254740992"], ["9007199254740993"]),
        ({"type": "number", "multipleOf": 3}, ["6", "-9"], ["6.0", "7"]),
        ({"type": "number", "multipleOf": 0.25}, ["6.75", "0.50", "7"], ["6.7", "7.000000001"]),
        ({"const": 1.0}, ["1"], ["1.5", "true"]),
        ({"enum": [1, "1", None, True]}, ["1", '"1"', "null", "true"], ["false", "2"]),
        # Two readings of one pattern: only what both match.
        ({"type": "string", "pattern": r"^\d$"}, ['"7"'], ['"٧"', '"77"']),
        ({"type": "string", "pattern": r"^\D$"}, ['"x"'], ['"٧"', '"7"']),
        ({"type": "string", "pattern": r"^\w$"}, ['"_"'], ['"é"']),
        ({"type": "string", "pattern": r"^\W$"}, ['"-"'], ['"é"', '"_"']),
        ({"type": "string", "pattern": "^.$"}, ['"é"'], ['"\\r"', '"\\n"', '"ab"']),
        ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"ac"']),
        ({"type": "string", "pattern": r"^[[a&&\]b]$"}, ['"["', '"&"', '"]"', '"b"'], ['"c"']),
        ({"type": "string", "pattern": r"^a\/b{2,3}?(?<n>c|d)x{y$"}, ['"a/bbdx{y"'], ['"a/bdx{y"']),
        ({"type": "string", "pattern": r"^[^\s]\u0041[\x42-\x44]$"}, ['"xAC"'], ['" AC"', '"xAE"']),
        # Alternatives that exclude each other, behind references.
        ({"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": A, "b": B}},
         ['{"k": "a"}', '{"k": "b"}'], ['{"k": "c"}', "{}"]),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}], "anyOf": [{"minimum": 3}]},
         ["3", '"x"'], ["2", "null"]),
        ({"oneOf": [{"anyOf": [{"type": "string"}, {"type": "null"}]},
                    {"allOf": [{"type": "array"}]}]},
         ["null", '"x"', "[]"], ["1", "{}"]),
        (TREE, ['{"n": {"n": {}, "v": null}}'], ['{"n": 1}', '{"x": 1}']),
        # Beside a $ref nothing counted before 2019-09.
        (D7 | {"$ref": "#/definitions/x", "type": "null", "definitions": {"x": {"type": "string"}}},
         ['"x"'], ["null"]),
        ({"$ref": "#/$defs/x", "maxLength": 1, "$defs": {"x": {"type": "string"}}},
         ['"x"'], ['"xy"', "1"]),
        (D7 | {"type": "array", "items": [{"type": "null"}], "additionalItems": {"const": 2}},
         ["[null, 2, 2]", "[]"], ["[2]", "[null, 3]"]),
        ({"type": "array", "prefixItems": [{"type": "null"}], "unevaluatedItems": False},
         ["[null]", "[]"], ["[null, 1]"]),
        (OPEN | {"properties": {"a": {}}, "unevaluatedProperties": False}, ['{"a": 1}'],
         ['{"b": 1}']),
        (OPEN | {"required": ["a"], "minProperties": 2}, ['{"a": 1, "b": 2}'], ['{"a": 1}']),
        (OPEN | {"patternProperties": {"^x-": {"type": "null"}}}, ['{"x-a": null, "y": 1}'],
         ['{"x-a": 1}']),
        # No name of the rest may match a pattern as some reader reads it.
        (OPEN | {"patternProperties": {r"^\w+$": {"type": "null"}}}, ['{"ab": null}'],
         ['{"é": 1}', '{"ab": 1}']),
        ({"type": ["integer", "number"]}, ["1.5", "2"], ['"x"']),
        ({"properties": {"a": False}, "type": "object"}, ["{}", '{"b": 1}'], ['{"a": 1}']),
    ],
    ids=lambda value: json.dumps(value)[:50],
)  # fmt: skip
def test_the_mask_holds_to_the_schema(
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    schema: Any,
    valid: list[str],
    invalid: list[str],
) -> None:
    for text in valid:
        assert spells(compiler, tokenizer, schema, text), text
    for text in invalid:
        assert not spells(compiler, tokenizer, schema, text), text


@pytest.mark.parametrize(
    "pattern",
    ["(?i)a", "a++", "a{,3}", "[]", "[^]", r"\bfoo", r"\p{L}", r"\cA", r"\A", "(?P<n>a)", "[b-a]",
     r"[\d-z]", "*", r"\ud800", "a\\", "(?<>a)", "[a"],
)  # fmt: skip
def test_patterns_that_mean_different_things_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        translated(pattern)


def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="the name 'type' twice"):
        Grammar.json_schema('{"type": "string", "type": "number"}')


def test_schemas_in_a_grammar_are_checked_too(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    date = 'start: "on " day\nday: %json {"type": "string", "format": "date"} // a day\n'
    assert spells(compiler, tokenizer, date, 'on "2024-02-29"', "lark")
    assert not spells(compiler, tokenizer, date, 'on "2023-02-29"', "lark")
    for text, message in [
        ('start: %json {"not": {}}', 'grammar cannot be enforced: %json: "not"'),
        ("start: %json [1]", "behind %json, not an object"),
        ("start: %json {", "no JSON behind %json"),
        ('start: %json {"minimum": 1e999}', "no JSON behind %json"),
        ('start: %json {"const": NaN}', "no JSON behind %json"),
        ('start: "a" // %json {}', "in a string, a regex or a comment"),
        ('%llguidance {"foo": 1}\nstart: "a"', "the setting 'foo'"),
        ('%llguidance {"allow_invalid_utf8": true}\nstart: "a"', "allow_invalid_utf8"),
        ("start: a\na[temperature=0.5]: /x+/", "the rule option temperature="),
        ('start: a "x"\na[stop="x"]: /.*/', "the rule option stop="),
    ]:
        with pytest.raises(UsageError) as caught:
            Grammar.lark(text)
        assert message in str(caught.value)
    assert spells(
        compiler, tokenizer, 'start: "temperature=1 stop=" /[x#]/', "temperature=1 stop=#", "lark"
    )


def test_hostile_schemas_are_bounded() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"items": deep}
    many: Any = {"anyOf": [{"properties": {f"p{i}": {}}} for i in range(60_000)]}
    wide = {"oneOf": [{"const": i} for i in range(3000)]}
    for schema, message in [(deep, "recursion limit"), (many, "bytes"), (wide, "oneOf")]:
        with pytest.raises(UsageError, match=message):
            Grammar.json_schema(schema)
    names = {f"d{i}": {"properties": {"n": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(3000)}
    Grammar.json_schema({"$ref": "#/$defs/d0", "$defs": names | {"d3000": {}}})


def test_any_json_object_is_json_however_deep(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    constraint = compiler.begin(Grammar.json_schema({"type": "object"}), None)
    text = '{"a": ' + "[" * 800 + "]" * 800 + "}"
    for token in tokenizer.encode_inside(text):
        assert not constraint.complete, "an answer cut here has not ended"
        assert constraint.allows(token)
        constraint.accept(token)
    assert constraint.complete
    assert isinstance(json.loads(text), dict)
    assert not constraint.allowed().any(), "nothing follows"
