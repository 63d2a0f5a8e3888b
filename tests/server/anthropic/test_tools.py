"""Calls of tools through the anthropic client, with the default model."""

from typing import Any

import anthropic
import pytest
from anthropic import beta_tool
from tests.server.anthropic.asking import (
    GREEDY,
    NEEDS_TOOL,
    WEATHER,
    asked_before,
    post,
    refused,
)

from alpage import Llama

OPTIONS: dict[str, Any] = {
    "model": "smollm2", "messages": NEEDS_TOOL, "tools": [WEATHER], "max_tokens": 60,
    "extra_body": GREEDY,
}  # fmt: skip


def call_of(message: Any) -> Any:
    """The one block of an answer, a call."""
    (block,) = message.content
    assert block.type == "tool_use"
    return block


@pytest.mark.client("anthropic", "tools: tool_use and tool_result")
def test_a_call_and_its_result(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(**OPTIONS)
    call = call_of(answer)
    assert answer.stop_reason == "tool_use"
    assert (call.name, call.input) == ("get_weather", {"city": "Berlin"})
    assert call.id.startswith("toolu_")
    # The answer goes back as the client's own objects, with the tool's result.
    for content in ("windy", [{"type": "text", "text": "windy"}]):
        result = {"type": "tool_result", "tool_use_id": call.id, "content": content}
        told = [
            *NEEDS_TOOL,
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [result]},
        ]
        after = claude.messages.create(**OPTIONS | {"messages": told})
        assert after.content[0].type == "text"
        assert "windy" in after.content[0].text
        assert after.stop_reason == "end_turn"


@pytest.mark.client("anthropic", "tools: streamed input_json_delta")
def test_a_streamed_call(claude: anthropic.Anthropic) -> None:
    events: list[Any] = list(claude.messages.create(**OPTIONS, stream=True))
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    _, start, delta, _, end, _ = events
    assert (start.content_block.type, start.content_block.input) == ("tool_use", {})
    assert (delta.delta.type, delta.delta.partial_json) == (
        "input_json_delta",
        '{"city": "Berlin"}',
    )
    assert end.delta.stop_reason == "tool_use"
    with claude.messages.stream(**OPTIONS) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "input_json"]
        call = call_of(stream.get_final_message())
    assert snapshots[-1] == call.input == {"city": "Berlin"}


@pytest.mark.client("anthropic", "tools: the tool runner")
def test_the_tool_runner(claude: anthropic.Anthropic) -> None:
    cities = []

    @beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city"""
        cities.append(city)
        return "windy"

    runner = claude.beta.messages.tool_runner(
        model="smollm2",
        messages=NEEDS_TOOL,
        tools=[get_weather],
        max_tokens=60,
        extra_body=GREEDY,
        max_iterations=3,
    )
    final = runner.until_done()
    assert cities == ["Berlin"]
    assert final.stop_reason == "end_turn"
    assert final.content[0].type == "text"
    assert "windy" in final.content[0].text


HELLO_WITH_TOOLS: dict[str, Any] = OPTIONS | {
    "messages": [{"role": "user", "content": "Say hello to the world."}],
    "tools": [WEATHER, WEATHER | {"name": "get_time"}],
}


@pytest.mark.client("anthropic", "tools: tool_choice any and tool")
def test_a_call_can_be_demanded(claude: anthropic.Anthropic) -> None:
    free = claude.messages.create(**HELLO_WITH_TOOLS)
    assert free.stop_reason in ("end_turn", "max_tokens")
    some = claude.messages.create(
        **HELLO_WITH_TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True}
    )
    assert call_of(some).name in ("get_weather", "get_time")
    assert some.stop_reason == "tool_use"
    for name in ("get_weather", "get_time"):
        answer = claude.messages.create(
            **HELLO_WITH_TOOLS, tool_choice={"type": "tool", "name": name}
        )
        assert call_of(answer).name == name
        assert set(call_of(answer).input) == {"city"}
        assert isinstance(call_of(answer).input["city"], str)
        with claude.messages.stream(
            **HELLO_WITH_TOOLS, tool_choice={"type": "tool", "name": name}
        ) as stream:
            streamed = stream.get_final_message()
        assert call_of(streamed).input == call_of(answer).input
        assert streamed.stop_reason == "tool_use"


@pytest.mark.client("anthropic", "tools: disable_parallel_tool_use")
def test_one_call_ends_the_answer(claude: anthropic.Anthropic) -> None:
    messages = [
        {"role": "user", "content": "What is the weather in Paris and in Rome?"},
        assistant(*(use(city) | {"input": {"city": city}} for city in ("Paris", "Rome"))),
        user(*(result(city) | {"content": "sunny"} for city in ("Paris", "Rome"))),
        {"role": "assistant", "content": "It is sunny in Paris and in Rome."},
        {"role": "user", "content": "What is the weather in Berlin and in London?"},
    ]
    asked = OPTIONS | {"messages": messages, "max_tokens": 90}
    choice: Any = {"type": "any"}
    several = claude.messages.create(**asked, tool_choice=choice)
    assert len(several.content) > 1
    assert {block.type for block in several.content} == {"tool_use"}
    one = claude.messages.create(**asked, tool_choice=choice | {"disable_parallel_tool_use": True})
    assert call_of(one).input == several.content[0].input
    assert one.stop_reason == "tool_use"


@pytest.mark.client("anthropic", "tools: strict")
def test_a_strict_tool_is_called_as_its_schema_says(claude: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city", "days"],
        "additionalProperties": False,
    }
    tool: Any = WEATHER | {"strict": True, "input_schema": schema}
    answer = claude.messages.create(**OPTIONS | {"tools": [tool]})
    call = call_of(answer)
    assert call.input["city"] in ("Oslo", "Rome")
    assert isinstance(call.input["days"], int)
    wrong = tool | {"input_schema": {"type": "object", "properties": {"city": {"type": "purple"}}}}
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]\.input_schema.*purple"):
        claude.messages.create(**OPTIONS | {"tools": [wrong]})


@pytest.mark.client("anthropic", "tools: tool_choice none")
def test_with_none_calls_stay_text(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(**OPTIONS, tool_choice={"type": "none"})
    (block,) = answer.content
    assert block.type == "text"
    assert "get_weather" in block.text
    assert answer.stop_reason == "end_turn"


@pytest.mark.client("anthropic", "tools: is_error")
def test_an_error_is_told_to_the_model(claude: anthropic.Anthropic, llm: Llama) -> None:
    def asked(error: bool, text: str) -> int:
        messages = asked_before(1, "Paris", text)[:3]
        messages[2]["content"][0]["is_error"] = error
        return claude.messages.count_tokens(model="smollm2", messages=messages).input_tokens

    plain = asked(False, "no such city")
    assert asked(True, "no such city") == asked(False, "Error: no such city") > plain
    assert asked(True, "no such city") - plain == len(llm.tokenize("Error: no such city")) - len(
        llm.tokenize("no such city")
    )


def use(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": "get_weather", "input": {}}


def result(name: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": name}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


TEXT = {"type": "text", "text": "Hi"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([user(TEXT), user(result("a"))], "messages[1].content[0]: tool_result blocks have"),
        ([user(result("a"))], "messages[0]: the tool_result for 'a' answers no tool_use"),
        ([user(TEXT), assistant(use("a")), user(TEXT)], "messages[2]: the tool_use 'a' needs a"),
        ([user(TEXT), assistant(use("a"), use("b")), user(result("a"))], "the tool_use 'b' needs"),
        ([user(TEXT), assistant(use("a")), user(result("b"))], "for 'b' answers no tool_use"),
        ([user(TEXT), assistant(use("a"))], "messages[1]: the tool_use 'a' needs a tool_result"),
        ([user(TEXT), assistant(use("a"), use("a"))], "messages[1].content[1]: there is a tool_u"),
        (
            [user(TEXT), assistant(use("a")), user(result("a")), user(result("a"))],
            "messages[3].content[0]: there is a tool_result for 'a' already",
        ),
        (
            [user(TEXT), assistant(use("a")), user(TEXT, result("a"))],
            "messages[2].content[1]: tool_result blocks have to stand before the text",
        ),
        ([user(use("a"))], "messages[0].content[0]: a tool_use block cannot stand in a message"),
        ([user(TEXT), assistant(result("a"))], "a tool_result block cannot stand in a message"),
        ([{"role": "system", "content": [use("a")]}], "cannot stand in a message of system"),
        ([assistant(TEXT)], "messages: there is nothing to answer"),
    ],
    ids=range(13),
)  # fmt: skip
def test_calls_and_results_belong_together(
    claude: anthropic.Anthropic, messages: list[Any], message: str
) -> None:
    refused(claude, {"model": "smollm2", "max_tokens": 1, "messages": messages}, message)


def test_results_stand_in_the_order_of_their_calls(claude: anthropic.Anthropic) -> None:
    def asked(*results: Any) -> Any:
        body = {
            "model": "smollm2", "max_tokens": 12, "temperature": 0,
            "messages": [user(TEXT), assistant(TEXT, use("a"), use("b")), user(*results, TEXT)],
        }  # fmt: skip
        return post(claude, body)["content"]

    assert asked(result("a"), result("b")) == asked(result("b"), result("a"))
