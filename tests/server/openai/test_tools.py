"""Calls that have to be made, and to be right, through the openai client."""

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import openai
import pytest

ASK: Any = [{"role": "user", "content": "What is the weather in Berlin, and what time is it?"}]
PLACE = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Berlin", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {
    "name": "get_weather", "description": "The weather in a city", "parameters": PLACE,
    "strict": True,
}  # fmt: skip
CLOCK = {"name": "get_time", "description": "The time", "strict": True}
NAMES = ("get_weather", "get_time")


def tools(form: str) -> list[Any]:
    """Both tools, in the form of chats or of responses."""
    if form == "chat":
        return [{"type": "function", "function": f} for f in (WEATHER, CLOCK)]
    return [{"type": "function", "parameters": None, **f} for f in (WEATHER, CLOCK)]


def ask(client: openai.OpenAI, form: str, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    """The calls of an answer: names and arguments."""
    options: dict[str, Any] = {"model": "smollm2", "tools": tools(form)}
    seed, most = more.pop("seed", 1), more.pop("most", 100)
    if form == "chat":
        answer: Any = client.chat.completions.create(
            messages=ASK, max_tokens=most, seed=seed, **options, **more
        )
        calls = [call.function for call in answer.choices[0].message.tool_calls or ()]
    else:
        answer = client.responses.create(
            input=ASK, max_output_tokens=most, extra_body={"seed": seed}, **options, **more
        )
        calls = [item for item in answer.output if item.type == "function_call"]
    found = [(call.name, json.loads(call.arguments)) for call in calls]
    for name, arguments in found:
        jsonschema.validate(arguments, PLACE if name == "get_weather" else {"maxProperties": 0})
    return found


@pytest.mark.parametrize("form", ["chat", "response"])
def test_a_call_can_be_required(client: openai.OpenAI, form: str) -> None:
    for seed in (1, 2):
        calls = ask(client, form, most=60, tool_choice="required", temperature=1.5, seed=seed)
        assert calls
        assert {name for name, _ in calls} <= set(NAMES)
    assert ask(client, form, most=20, tool_choice="none") == []


@pytest.mark.parametrize("form", ["chat", "response"])
@pytest.mark.parametrize("name", NAMES)
def test_one_function_can_be_named(client: openai.OpenAI, form: str, name: str) -> None:
    choice: Any = {"type": "function", "name": name}
    if form == "chat":
        choice = {"type": "function", "function": {"name": name}}
    assert [called for called, _ in ask(client, form, tool_choice=choice)] == [name]


@pytest.mark.parametrize("form", ["chat", "response"])
def test_one_call_only(client: openai.OpenAI, form: str) -> None:
    for seed in (1, 2, 3):
        calls = ask(
            client, form, tool_choice="required", parallel_tool_calls=False, seed=seed,
            temperature=1.5,
        )  # fmt: skip
        assert len(calls) == 1


@pytest.mark.parametrize("form", ["chat", "response"])
def test_only_some_tools_are_allowed(client: openai.OpenAI, form: str) -> None:
    choice: Any = {"mode": "required", "tools": [{"type": "function", "name": "get_time"}]}
    if form == "chat":
        choice["tools"] = [{"type": "function", "function": {"name": "get_time"}}]
        choice = {"type": "allowed_tools", "allowed_tools": choice}
    else:
        choice["type"] = "allowed_tools"
    calls = ask(client, form, tool_choice=choice)
    assert {name for name, _ in calls} == {"get_time"}


@pytest.mark.client("openai", "chat: tool_choice none, auto, required, named")
def test_choices_of_chats(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "smollm2", "messages": ASK, "tools": tools("chat"), "temperature": 0,
        "max_tokens": 100,
    }  # fmt: skip
    expected: list[tuple[Any, set[str]]] = [
        ("required", {"tool_calls"}),
        ({"type": "function", "function": {"name": "get_time"}}, {"tool_calls"}),
        ("none", {"stop", "length"}),
        ("auto", {"stop", "length", "tool_calls"}),
    ]
    for choice, reasons in expected:
        answer: Any = client.chat.completions.create(**options, tool_choice=choice)
        assert answer.choices[0].finish_reason in reasons
        calls = answer.choices[0].message.tool_calls
        assert bool(calls) == (answer.choices[0].finish_reason == "tool_calls")


@pytest.mark.client("openai", "chat: tool calls, streaming")
def test_a_call_in_a_stream_comes_in_deltas(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "smollm2", "messages": ASK, "tools": tools("chat"), "temperature": 0,
        "max_tokens": 100, "tool_choice": "required",
    }  # fmt: skip
    answer: Any = client.chat.completions.create(**options)
    whole = answer.choices[0].message.tool_calls
    stream: Any = client.chat.completions.create(**options, stream=True)
    deltas: list[Any] = []
    for chunk in stream:
        deltas += chunk.choices[0].delta.tool_calls or []
    named = [delta for delta in deltas if delta.function.name is not None]
    assert [delta.index for delta in named] == list(range(len(whole)))
    assert all(delta.id and delta.type == "function" for delta in named)
    assert len({delta.id for delta in named}) == len(named)
    for index, call in enumerate(whole):
        own = [delta for delta in deltas if delta.index == index]
        assert own[0].function.name == call.function.name
        assert "".join(delta.function.arguments for delta in own) == call.function.arguments
        assert all(delta.id is None for delta in own[1:])


@pytest.mark.client("openai", "chat: strict tools, parallel_tool_calls")
def test_strict_tools_of_chats(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    for seed in range(4):
        (call,) = ask(client, "chat", tool_choice=named, temperature=2, seed=seed)
        assert call[0] == "get_weather"  # and the arguments follow the schema: see `ask`


@pytest.mark.client("openai", "responses: tool_choice, strict functions, parallel_tool_calls")
def test_choices_of_responses(client: openai.OpenAI) -> None:
    calls = ask(client, "response", tool_choice="required", parallel_tool_calls=False)
    assert len(calls) == 1
    answer = client.responses.create(
        model="smollm2", input=ASK, tools=tools("response"), tool_choice="required",
        max_output_tokens=100,
    )  # fmt: skip
    assert answer.tool_choice == "required"
    assert [tool.type for tool in answer.tools] == ["function", "function"]


def test_a_strict_schema_that_cannot_be_enforced_is_refused(client: openai.OpenAI) -> None:
    function: Any = {
        "name": "f", "strict": True, "parameters": {"type": "object", "uniqueItems": True},
    }  # fmt: skip
    with pytest.raises(openai.BadRequestError, match='enforced: "uniqueItems"') as told:
        client.chat.completions.create(
            model="smollm2", messages=ASK, tools=[{"type": "function", "function": function}]
        )
    assert told.value.param == "tools[0].function.parameters"
    with pytest.raises(openai.BadRequestError, match='enforced: "uniqueItems"') as told:
        flat: Any = {"type": "function", **function}
        client.responses.create(model="smollm2", input=ASK, tools=[flat])
    assert told.value.param == "tools[0].parameters"
