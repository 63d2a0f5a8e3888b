"""Calls that have to be made: what grammars of calls allow, and what becomes of the answers."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest

from alpage import Llama
from alpage.chat import Notation, ToolCallStream, fallback_template, parse_tool_calls
from alpage.core.errors import InputError, UsageError
from alpage.core.settings import Settings
from alpage.engine.grammar import GrammarCompiler
from alpage.llama import ToolName
from alpage.llama.calls import Calls, calls_of
from alpage.llama.text import TextSide, load_text_side
from alpage.tokenizer import Tokenizer, from_gguf
from alpage.tokenizer.bytelevel import BYTE_TO_CHAR
from alpage.weights.source import open_model

TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/kid"}, "maxItems": 2}},
    "required": ["kids"],
    "additionalProperties": False,
    "$defs": {"kid": {"anyOf": [{"type": "null"}, {"enum": ["</tool_call>", '"\\ }', "x"]}]}},
}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "when": {"$ref": "#/$defs/day"},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"day": {"type": "string", "format": "date"}},
}
SCHEMAS = {"weather": WEATHER, "tree-1": TREE, "loose": {}}


def tools(*names: str, strict: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {"name": name, "parameters": SCHEMAS[name], "strict": strict},
        }
        for name in names
    ]


ALL = tools("weather", "tree-1", "loose")
ASK = [{"role": "user", "content": "What is the weather in Paris? Call a tool."}]


@pytest.fixture(scope="module")
def tokenizer(smollm2_path: Path) -> Tokenizer:
    with open_model(smollm2_path) as source:
        return load_text_side(source).tokenizer


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    yield made
    made.close()


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> Iterator[Llama]:
    with Llama.load(smollm2_path, context=1024, threads=2, settings=Settings()) as loaded:
        yield loaded


def walked(compiler: GrammarCompiler, tokenizer: Tokenizer, calls: Calls, seed: int) -> str | None:
    """A random answer, drawn to its end; None for one that goes on and on."""
    assert calls.grammar is not None
    chance = random.Random(seed)
    constraint = compiler.begin(calls.grammar, None)
    near = [tokenizer.encode_inside(text)[0] for text in ('"', "}", "]", "<", ">", "0", "null")]
    tokens: list[int] = []
    while not constraint.ended and len(tokens) < 300:
        ids = np.flatnonzero(np.unpackbits(constraint.allowed().view(np.uint8), bitorder="little"))
        if constraint.complete and (not len(ids) or chance.random() < 0.1):
            break
        closing = [token for token in near if constraint.allows(token)]
        tokens.append(chance.choice(closing if closing and chance.random() < 0.5 else ids.tolist()))
        constraint.accept(tokens[-1])
    return tokenizer.decode(tokens) if constraint.ended or constraint.complete else None


def check_call(name: str, arguments: dict[str, Any]) -> None:
    jsonschema.validate(arguments, SCHEMAS[name], jsonschema.Draft202012Validator)


@pytest.mark.parametrize("notation", Notation)
@pytest.mark.parametrize("single", [False, True])
def test_random_calls_are_read_back_and_follow_their_schema(
    compiler: GrammarCompiler, tokenizer: Tokenizer, notation: Notation, single: bool
) -> None:
    calls = calls_of(ALL, "required", not single, notation)
    assert (calls.names, calls.single) == (frozenset(SCHEMAS), single)
    most = 0
    for seed in range(25):
        text = walked(compiler, tokenizer, calls, seed)
        if text is None:
            continue
        stream = ToolCallStream(calls.names, notation)
        found = [event for part in text for event in stream.push(part)] + stream.finish()
        made = [event.call for event in found if hasattr(event, "call")]
        assert made, text
        assert "".join(getattr(e, "text", "") for e in found if type(e).__name__[0] == "C") == ""
        assert text.count('"name": ') >= len(made) or notation is Notation.FUNCTION
        most = max(most, len(made))
        for call in made:
            check_call(call.name, call.parsed)
            assert json.loads(call.arguments) == call.parsed
        # The plain reader, which knows every notation, sees no other calls.
        plain = parse_tool_calls(text, calls.names).tool_calls
        assert [c.name for c in plain] == [c.name for c in made] or "e999" in text
    assert most == 1 if single else most > 1


@pytest.mark.parametrize("notation", Notation)
def test_strict_tools_leave_room_for_text(
    compiler: GrammarCompiler, tokenizer: Tokenizer, notation: Notation
) -> None:
    offered = [*tools("weather", strict=True), *tools("tree-1")]
    calls = calls_of(offered, "auto", True, notation)
    assert calls.grammar is not None

    def spells(text: str) -> bool:
        constraint = compiler.begin(calls.grammar, None)  # type: ignore[arg-type]
        for token in tokenizer.encode_inside(text):
            if not constraint.allows(token):
                return False
            constraint.accept(token)
        return constraint.complete

    def call(name: str, arguments: str) -> str:
        if notation is Notation.FUNCTION:
            return f"<function={name}>{arguments}</function>"
        key = "parameters" if notation is Notation.BARE else "arguments"
        body = f'{{"name": "{name}", "{key}": {arguments}}}'
        return body if notation is Notation.BARE else f"<tool_call>\n{body}\n</tool_call>"

    good = call("weather", '{"city": "Uri", "days": 2}')
    assert spells("") and spells("It is sunny: 3 < 4.\nI say so.") and spells(good)
    assert not spells(call("weather", '{"city": "Uri", "days": 9}'))
    assert not spells(call("unknown", "{}"))
    assert spells(call("tree-1", '{"anything": [1]}')), "no strict tool"
    before = "Let me see.\n"
    if notation is Notation.BARE:  # calls are the whole answer there, and text begins otherwise
        assert spells(f"{good}; {good}") and not spells(' {"a": 1}')
        assert spells(before + good) and not parse_tool_calls(before + good).tool_calls
    else:
        assert spells(f"{before}{good}\n{good}\nThat is all.")
        assert not spells(before + call("weather", '{"days": 2}'))


def test_the_model_calls_what_it_has_to(llm: Llama) -> None:
    for seed in range(3):
        options: dict[str, Any] = {"temperature": 1.0, "seed": seed, "max_tokens": 300}
        answer = llm.chat(ASK, tools=ALL[:2], tool_choice="required", **options)
        assert answer.finish_reason == "stop" and answer.tool_calls and answer.text == ""
        for call in answer.tool_calls:
            check_call(call.name, call.parsed)
        named = llm.chat(ASK, tools=ALL, tool_choice=ToolName("tree-1"), **options)
        (call,) = named.tool_calls
        assert (call.name, named.text, named.finish_reason) == ("tree-1", "", "stop")
        check_call(call.name, call.parsed)
        one = llm.chat(ASK, tools=ALL, tool_choice="required", parallel_tool_calls=False, **options)
        assert len(one.tool_calls) == 1


def test_a_streamed_call_comes_whole(llm: Llama) -> None:
    stream = llm.chat(ASK, tools=ALL[:1], tool_choice="required", stream=True, seed=4)
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == ""
    assert [len(piece.tool_calls) for piece in pieces].count(1) == len(stream.result().tool_calls)
    cut = llm.chat(ASK, tools=ALL[:1], tool_choice="required", max_tokens=5)
    assert (cut.finish_reason, cut.tool_calls) == ("length", ())


def test_a_follow_up_reads_the_calls_again(llm: Llama) -> None:
    answer = llm.chat(ASK, tools=ALL[:1], tool_choice=ToolName("weather"), seed=1)
    told = [*ASK, answer.message, {"role": "tool", "content": "snow"}]
    after = llm.chat(told, tools=ALL[:1], tool_choice="none", max_tokens=12)
    assert after.tool_calls == ()


def test_none_tells_of_no_tool(llm: Llama) -> None:
    request = llm.chat_request(ASK, tools=ALL, tool_choice="none")
    assert list(request.prompt) == list(llm.chat_request(ASK).prompt)
    assert (request.calls, request.grammar) == (None, None)
    assert list(llm.chat_request(ASK, tools=ALL).prompt) != list(request.prompt)
    schema = llm.chat_request(ASK, tools=ALL, tool_choice="none", json_schema={"type": "null"})
    assert schema.grammar is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tool_choice": "required"}, 'tool_choice "required" needs tools'),
        ({"tool_choice": "maybe"}, 'tool_choice is "auto", "none", "required" or a ToolName'),
        ({"tool_choice": ToolName("x"), "tools": ALL}, "tool_choice names 'x', which is not among"),
        ({"tool_choice": ToolName("x")}, "not among the tools: none"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls must be True or False"),
        ({"tools": [{"function": {"name": "f", "strict": 1}}]}, "tools[0].function.strict must be"),
        ({"tools": [ALL[0], {"name": "f", "parameters": {"not": {}}}], "tool_choice": "required"},
         'tools[1].parameters cannot be enforced: "not"'),
        ({"tools": [{"function": {"name": "f", "parameters": {"properties": {
            "a": {"type": "array", "uniqueItems": True}}}}}], "tool_choice": ToolName("f")},
         'tools[0].function.parameters cannot be enforced: "uniqueItems" at /properties/a'),
        ({"tools": [{"function": {"name": "f", "parameters": {"type": "array"}}}],
          "tool_choice": "required"}, "tools[0].function.parameters has the \"type\" 'array'"),
        ({"tools": [{"function": {"name": "f", "parameters": [1]}}], "tool_choice": "required"},
         "tools[0].function.parameters must be a JSON Schema"),
        ({"tools": [{"function": {"name": "a b", "strict": True}}]}, "tools[0].function.name"),
        ({"tools": [*ALL, ALL[0]], "tool_choice": "required"},
         "tools[3].function.name 'weather' is there twice"),
        ({"tools": ALL, "tool_choice": "required", "regex": "a"}, "leaves no room for calls"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(
    llm: Llama, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        llm.chat_request(ASK, **options)
    assert message in str(caught.value)


def test_the_first_call_ends_an_answer_without_parallel_calls(llm: Llama) -> None:
    """With a grammar that makes the model write two calls, and text behind them."""
    call = '<tool_call>\n{"name": "loose", "arguments": {}}\n</tool_call>'
    text = f"Well: {call}\n{call} done"
    prompt = llm.chat_request(ASK, regex=text.replace("{", r"\{").replace("}", r"\}"))
    names = frozenset({"loose"})
    both = llm.stream(replace(prompt, calls=Calls(names, single=False))).result()
    assert (len(both.tool_calls), both.text) == (2, "Well: done")
    one = llm.stream(replace(prompt, calls=Calls(names, single=True))).result()
    assert (len(one.tool_calls), one.text, one.finish_reason) == (1, "Well:", "stop")
    assert len(one.tokens) < len(both.tokens)


def side(template: str | None, *special: str) -> TextSide:
    tokens = [*BYTE_TO_CHAR, "<|end|>", *special]
    made = from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * 256 + [3] * (len(tokens) - 256),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.eos_token_id": 256,
        }
    )
    return TextSide(made, chat_template=template, end_ids=frozenset())


def test_the_notation_is_the_templates_own() -> None:
    assert side("{{ messages }}").notation is Notation.TAGGED, "we tell of tools then"
    assert side("{{ tools }}<tool_call>").notation is Notation.TAGGED
    assert side("{{ tools }}<function=x>").notation is Notation.FUNCTION
    assert side(None, "<|start_header_id|>").notation is Notation.BARE
    assert '"parameters"' in fallback_template(["<|start_header_id|>"])
    odd = side("{{ tools }}[TOOL_CALLS]")
    assert odd.notation is None
    with pytest.raises(UsageError, match="tool_choice cannot be enforced: the model's notation"):
        calls_of(ALL, "required", True, odd.notation)
    assert calls_of(ALL, "auto", True, odd.notation).grammar is None
    tagged = side("{{ tools }}<tool_call>", "<tool_call>", "</tool_call>")
    assert tagged.shown_in_calls == {257, 258}, "else a call of such a model is not seen"


def test_strings_may_say_what_ends_a_call() -> None:
    text = (
        '<tool_call>{"name": "f", "arguments": {"a": "x</tool_call>\\"</tool_call>"}}</tool_call>'
    )
    for size in (1, 3, len(text)):
        stream = ToolCallStream(["f"])
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        events = [event for part in parts for event in stream.push(part)] + stream.finish()
        (call,) = [event.call for event in events if hasattr(event, "call")]
        assert call.parsed == {"a": 'x</tool_call>"</tool_call>'}
    broken = '<tool_call>{"name": "f</tool_call> and <tool_call>{"name": "f"}</tool_call>'
    assert parse_tool_calls(broken.replace(" and", "\n and"), ["f"]).tool_calls == []
    lines = '<tool_call>{"name": "f\n</tool_call> and <tool_call>{"name": "f"}</tool_call>'
    assert [call.name for call in parse_tool_calls(lines, ["f"]).tool_calls] == ["f"]


def test_no_number_is_too_large_for_a_call_that_had_to_be_made() -> None:
    text = '{"name": "f", "parameters": {"a": 1e999, "b": -1e999, "c": ' + "9" * 5000 + "}}"
    stream = ToolCallStream(["f"], Notation.BARE)
    (call,) = [e.call for e in stream.push(text) + stream.finish() if hasattr(e, "call")]
    assert call.parsed["a"] == call.parsed["c"] == -call.parsed["b"] == 1.7976931348623157e308
    assert json.loads(call.arguments) == call.parsed
    assert parse_tool_calls(text, ["f"]).tool_calls == []


def test_tools_are_checked_where_nothing_is_enforced(llm: Llama) -> None:
    with pytest.raises(InputError, match="each tool is"):
        llm.chat_request(ASK, tools=[{"type": "function"}])
