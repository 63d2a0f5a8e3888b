import json
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alpage.chat import (
    ArgumentsDelta,
    ContentDelta,
    ParsedAnswer,
    ToolCallEnd,
    ToolCallStart,
    ToolCallStream,
    parse_tool_calls,
)

CALLS = [
    ('<|python_tag|>brave_search.call(query="snow depth")<|eom_id|>',
     "brave_search", {"query": "snow depth"}),
    ('<|python_tag|>wolfram_alpha.call(query="2 + 2")', "wolfram_alpha", {"query": "2 + 2"}),
    ("<|python_tag|>import math\nprint(math.pi)\n<|eom_id|>",
     "code_interpreter", {"code": "import math\nprint(math.pi)"}),
    ("<|python_tag|>print(1)", "code_interpreter", {"code": "print(1)"}),
    ('{"name": "weather", "parameters": {"city": "Bern", "days": 3}}<|eot_id|>',
     "weather", {"city": "Bern", "days": 3}),
    ('{"type": "function", "name": "weather", "parameters": {"city": "Bern"}}',
     "weather", {"city": "Bern"}),
    ('<|python_tag|>{"type": "function", "name": "weather", "parameters": {"city": "Bern"}}'
     "<|eom_id|>", "weather", {"city": "Bern"}),
    ('\n {"name": "weather", "arguments": {"city": "Zürich \\u00e9 \\"}\\" {"}}\n',
     "weather", {"city": 'Zürich é "}" {'}),
    ('{"name": "now", "parameters": {}}', "now", {}),
    ('{"name": "now", "parameters": null}', "now", {}),
    ('{"name": "weather", "arguments": "{\\"city\\": \\"Bern\\"}"}', "weather", {"city": "Bern"}),
    ('<function=weather>{"city": "Bern"}</function><|eot_id|>', "weather", {"city": "Bern"}),
    ('<function=weather>{"city": "Bern"}<|eot_id|>', "weather", {"city": "Bern"}),
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>',
     "weather", {"city": "Bern"}),
    ('<tool_call>[{"name": "weather", "arguments": {"city": "Bern"}}]</tool_call>',
     "weather", {"city": "Bern"}),
    ('[weather(city="Bern", days=3)]', "weather", {"city": "Bern", "days": 3}),
    ("[ w.now( a = -1.5e3, b=[1, 'x', None, (True,)], c={'k': {}}, ) ]<|eot_id|>",
     "w.now", {"a": -1500.0, "b": [1, "x", None, [True]], "c": {"k": {}}}),
    ("[f(s='it\\'s \\u00e9 \\n \\d' \"more\")]", "f", {"s": "it's é \n \\dmore"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "arguments"), CALLS)
def test_each_form_of_a_call(text: str, name: str, arguments: dict[str, object]) -> None:
    answer = parse_tool_calls(text)
    assert answer.content.strip() in ("", "<|eot_id|>")
    (call,) = answer.tool_calls
    assert (call.name, call.parsed) == (name, arguments)
    assert json.loads(call.arguments) == arguments
    assert parse_tool_calls(text, known_tools={name}).tool_calls == [call]
    assert parse_tool_calls(text, known_tools={"other"}).tool_calls == []
    assert parse_tool_calls(text, known_tools={"other"}).content == text


@pytest.mark.parametrize(
    "text",
    [
        "Hello, how are you?",
        "",
        "   \n ",
        '{"name": "Ada", "age": 36}',
        '{"name": "Ada"}',
        '{"name": "Ada", "parameters": [1]}',
        '{"name": "Ada", "parameters": {}, "arguments": {}}',
        '{"name": "two words", "parameters": {}}',
        '{"name": 3, "parameters": {}}',
        '{"type": "object", "name": "x", "parameters": {}}',
        '{"name": "f", "parameters": {"x": NaN}}',
        '{"name": "f", "parameters": {"x": 1e999}}',
        '{"name": "f", "parameters": {}} is how a call looks',
        'A call looks like {"name": "f", "parameters": {}}',
        '```json\n{"name": "f", "parameters": {}}\n```',
        '{"name": "f", "parameters": {"a": 1',
        '{"name": "f", "parameters": {"a": 1}}}',
        '{"nam\\u0065": "f", "parameters": {}}',
        "[1, 2, 3]",
        "[link(text)](https://example.org) and more",
        "[f(a=1), g(b=2)] are two calls",
        "[f(a=1), g(b=2)",
        "[f(1)]",
        "[f(a=g())]",
        "[f(a=1+1)]",
        "[f(a=x)]",
        "[f(a=1, a=2)]",
        "[f(a=__import__('os'))]",
        "[]",
        "[ ]",
        "- [ ] task\n- [x] done",
        "<function=f>not json</function>",
        "<function=f>[1]</function>",
        "<function=>{}</function>",
        "<function=a b>{}</function>",
        "<function=f>{",
        "<function=f",
        "<functional>",
        "Write <tool_call> before a call.",
        "<tool_call>{}</tool_call>",
        "<tool_call>",
        "<tool_call>  ",
        "<tool_call></tool_call>",
        '<tool_call>{"name": "f"',
        "a < b and <| c",
        "<|python_tag|>",
        "<|python_tag|>  <|eom_id|>",
        '<|python_tag|>{"name": "f", "para',
        "ends with a tag's beginning <|python_",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_call_stays_content(text: str) -> None:
    assert parse_tool_calls(text) == ParsedAnswer(text, [])
    assert stream(list(text)) == ParsedAnswer(text, [])


def test_a_known_name_alone_is_a_call_without_arguments() -> None:
    answer = parse_tool_calls('{"name": "now"}', known_tools=["now"])
    assert [(c.name, c.arguments) for c in answer.tool_calls] == [("now", "{}")]


def test_code_goes_to_the_interpreter_that_is_known() -> None:
    assert parse_tool_calls("<|python_tag|>x = 1", ["python"]).tool_calls[0].name == "python"


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ('{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', "", ["f", "g"]),
        ('{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {}}', "", ["f", "g"]),
        ('[f(a=1), g(b="x")]', "", ["f", "g"]),
        ('Let me look.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\n',
         "Let me look.", ["f"]),
        ('A <function=f>{}</function> <function=g>{}</function>\nB', "A\nB", ["f", "g"]),
        ('<function=f>{}</function>\n\n  B <tool_call>C', "B <tool_call>C", ["f"]),
        ('Text <|python_tag|>{"name": "f", "parameters": {}}', "Text", ["f"]),
        ('{"name": "x"} <tool_call>{"name": "f", "arguments": {}}</tool_call>',
         '{"name": "x"}', ["f"]),
        ('<function=bad>[</function> <function=f>{}</function>',
         "<function=bad>[</function>", ["f"]),
        ('<function=<function=f>{}</function>', "<function=", ["f"]),
    ],
)  # fmt: skip
def test_several_calls_and_text_around_them(text: str, content: str, names: list[str]) -> None:
    for answer in (parse_tool_calls(text), stream(list(text))):
        assert answer.content == content
        assert [call.name for call in answer.tool_calls] == names


def stream(pieces: list[str], known: list[str] | None = None) -> ParsedAnswer:
    parser = ToolCallStream(known)
    events = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
    content = "".join(event.text for event in events if isinstance(event, ContentDelta))
    calls = [event.call for event in events if isinstance(event, ToolCallEnd)]
    starts = [event for event in events if isinstance(event, ToolCallStart)]
    assert [start.index for start in starts] == list(range(len(calls)))
    assert [start.name for start in starts] == [call.name for call in calls]
    for index, call in enumerate(calls):
        parts = [e.text for e in events if isinstance(e, ArgumentsDelta) and e.index == index]
        assert "".join(parts) == call.arguments
    return ParsedAnswer(content, calls)


fragments = st.sampled_from(
    ['{"name": "f", ', '"parameters": {}}', '{"name": "f", "parameters": {"a": "}"}}', "; ", " ",
     "\n", "<|python_tag|>", "<|eom_id|>", "<|eot_id|>", "<function=f>", "</function>", "{}",
     "<tool_call>", "</tool_call>", "[f(a=1)", ", g(b='x]')", "]", "[", "{", "}", '"', "\\", "'",
     "text", "<", "<|", "<function=", ">", "<tool_", "f.call(q='x')", "é", ":", ",", "\u2003",
     '"arguments":', '"name"', "(", ")"]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.lists(fragments, max_size=10), st.data())
@example(["{}"], None)
def test_any_division_of_the_text_gives_the_same_answer(
    parts: list[str], data: st.DataObject | None
) -> None:
    text = "".join(parts)
    whole = parse_tool_calls(text)
    assert stream(list(text)) == whole
    assert stream(parts) == whole
    if data is not None and text:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
        edges = [0, *cuts, len(text)]
        pieces = [text[a:b] for a, b in pairwise(edges)]
        assert stream(pieces) == whole
    if not whole.tool_calls:
        assert whole.content == text


@settings(deadline=None)
@given(st.text(max_size=60))
def test_ordinary_text_passes_unchanged(text: str) -> None:
    answer = parse_tool_calls(text)
    assert answer.tool_calls or answer.content == text


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False,
                allow_infinity=False) | st.text(max_size=12),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    )
)  # fmt: skip
def test_any_json_arguments_come_back(arguments: dict[str, object]) -> None:
    body = json.dumps({"name": "f", "parameters": arguments}, ensure_ascii=False)
    for text in (body, f"<|python_tag|>{body}<|eom_id|>", f"<tool_call>{body}</tool_call>"):
        (call,) = stream([text[i : i + 3] for i in range(0, len(text), 3)]).tool_calls
        assert call.parsed == arguments
        assert json.loads(call.arguments) == arguments


def test_text_is_shown_as_soon_as_it_can_be_no_call() -> None:
    parser = ToolCallStream()
    assert parser.push('{"title": ') == [ContentDelta('{"title":')]
    assert parser.push('"x"}') == [ContentDelta(' "x"}')]
    parser = ToolCallStream()
    assert parser.push("Use <tool_call> tags") == [
        ContentDelta("Use"), ContentDelta(" <tool_call>"), ContentDelta(" tags"),
    ]  # fmt: skip
    parser = ToolCallStream()
    assert parser.push("[see (1)") == [ContentDelta("[see (1)")] or parser.finish()
    parser = ToolCallStream()
    assert parser.push("- item") == [ContentDelta("- item")]


def test_a_tag_that_may_begin_is_held() -> None:
    parser = ToolCallStream()
    assert parser.push("Yes <|python") == [ContentDelta("Yes")]
    assert parser.push("ista|>") == [ContentDelta(" <|pythonista|>")]


def test_half_a_surrogate_pair_can_be_sent_on() -> None:
    (call,) = parse_tool_calls('{"name": "f", "parameters": {"a": "\\ud800"}}').tool_calls
    assert call.arguments.encode() == b'{"a": "\\ud800"}'


HOSTILE = {
    "deep JSON": '{"name": "f", "parameters": ' + '{"a":' * 200_000,
    "deep JSON, closed": '{"name": "f", "parameters": ' + '{"a":' * 99_999 + "1" + "}" * 100_000,
    "deep list": "[f(a=" + "[" * 1_000_000,
    "deep list, closed": "[f(a=" + "[" * 500_000 + "]" * 500_000 + ")]",
    "signs": "[f(a=" + "-" * 1_000_000 + "1)]",
    "sum": "[f(a=" + "1+" * 500_000 + "1)]",
    "digits": '{"name": "f", "parameters": {"a": ' + "9" * 1_000_000 + "}}",
    "python digits": "[f(a=" + "9" * 1_000_000 + ")]",
    "open string": '{"name": "f", "parameters": {"a": "' + "\\" * 1_000_000,
    "open python string": "[f(a='" + "\\" * 1_000_000,
    "many strings": "[f(a=" + "'a' " * 250_000,
    "long key": '{"' + "k" * 1_000_000,
    "long name": "<function=" + "f" * 1_000_000,
    "opening tags": "<function=f>{" * 80_000,
    "tool tags": "<tool_call>" * 100_000,
    "tool blocks": "<tool_call>{" * 80_000,
    "empty blocks": "<tool_call>{</tool_call>" * 40_000,
    "python tags": "<|python_tag|>{" * 60_000,
    "terminators": '{"name": "f", "parameters": {}}' + "<|eot_id|> " * 100_000 + "x",
    "code terminators": "<|python_tag|>{" + "<|eot_id|> " * 100_000,
    "separators": '{"name": "f", "parameters": {}}' + ";" * 1_000_000 + "x",
    "spaces": " " * 1_000_000 + "x" + " " * 1_000_000,
    "less-than": "<" * 1_000_000,
    "many calls": '{"name": "f", "parameters": {}}' * 30_000,
    "many python calls": "[" + "f(a=1), " * 100_000 + "f(a=1)]",
    "brackets": "[f(" + "[" * 300_000 + "x" * 300_000,
    "spaces in a block": "<tool_call>" + " " * 1_000_000 + "x",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.timeout(60)
def test_a_hostile_megabyte_is_content(case: str) -> None:
    text = HOSTILE[case]
    assert parse_tool_calls(text) == ParsedAnswer(text, [])
    assert stream([text[i : i + 61] for i in range(0, len(text), 61)]) == ParsedAnswer(text, [])
