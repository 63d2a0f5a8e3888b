"""Questions that several tests ask."""

from collections.abc import Mapping
from typing import Any

import anthropic
import pytest

HELLO: list[Any] = [{"role": "user", "content": "Say hello to the world."}]
GREEDY = {"temperature": 0}
BODY: dict[str, Any] = {"model": "smollm2", "messages": HELLO, "max_tokens": 1}
USE = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a"}
TEXT = {"type": "text", "text": "Hi"}

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def asked_before(number: int, city: str, weather: str) -> list[Any]:
    """A question about the weather that a call has answered."""
    call = {
        "type": "tool_use", "id": f"toolu_{number}", "name": "get_weather", "input": {"city": city},
    }  # fmt: skip
    result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": weather}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": f"It is {weather} in {city}."},
    ]


# The small model calls a tool when it has seen how.
NEEDS_TOOL: list[Any] = [
    *asked_before(1, "Paris", "sunny"),
    *asked_before(2, "Rome", "rainy"),
    {"role": "user", "content": "What is the weather in Berlin?"},
]


def post(claude: anthropic.Anthropic, body: Any, path: str = "/v1/messages") -> Any:
    """The answer to any body, sent and read by the real client."""
    return claude.post(path, cast_to=object, body=body)


def refused(claude: anthropic.Anthropic, body: Any, name: str) -> str:
    """The message of a refusal, which has to name the field."""
    with pytest.raises(anthropic.BadRequestError) as caught:
        post(claude, body)
    assert caught.value.type == "invalid_request_error"
    message = str(caught.value.api_message)
    assert name in message, message
    return message


def with_blocks(use: Mapping[str, Any], result: Mapping[str, Any], text: Any) -> dict[str, Any]:
    """A body with one block of each kind."""
    messages = [
        {"role": "user", "content": [text]},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, text]},
    ]
    return BODY | {"messages": messages}
