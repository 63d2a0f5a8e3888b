"""Bodies that no honest client sends: refused with a clear message, and never an error of ours."""

from typing import Any

import anthropic
import pytest
from tests.server.anthropic.asking import BODY, RESULT, TEXT, USE, WEATHER, post, with_blocks


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": [{"role": "user", "content": "x"}] * 100_001}, "at most 100000 items"),
        ({"messages": [{"role": "user", "content": [TEXT] * 100_001}]}, "at most 100000 items"),
        ({"messages": [{"role": "user", "content": [TEXT] * 100_000}]}, "the context holds 512"),
        ({"messages": [{"role": "user", "content": "x"}] * 90_000}, "the context holds 512"),
        ({"tools": [WEATHER] * 200}, "at most 128 items"),
        ({"tools": [WEATHER | {"input_schema": deep(100)}]}, "nested more than 32 deep"),
        ({"tools": [WEATHER | {"input_schema": deep(500)}]}, "recursion limit"),
        ({"system": deep(190)}, "system"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
    ],
    ids=range(10),
)
def test_hostile_values(claude: anthropic.Anthropic, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message):
        post(claude, BODY | fields)


def test_text_that_is_none(claude: anthropic.Anthropic) -> None:
    body = b'{"model":"smollm2","max_tokens":1,"messages":[{"role":"user","content":%s}]}'
    for raw in (b'"\\ud800"', b'"\xff"', b'"\\udc00\\ud800"', b"1e999999999999"):
        with pytest.raises(anthropic.BadRequestError, match=r"the body is not JSON|content is"):
            claude.post("/v1/messages", cast_to=object, content=body % raw)


def test_any_text_is_read(claude: anthropic.Anthropic) -> None:
    odd = "\0\x1b[31m\u202e\ufffd\U0010ffff<|im_end|>"
    body = with_blocks(USE | {"input": {odd: odd}}, RESULT | {"content": odd}, TEXT)
    body |= {"system": odd, "stop_sequences": [odd], "metadata": {"user_id": odd}}
    assert post(claude, body)["type"] == "message"


def test_deep_input_of_a_tool_is_refused(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="nests values more than 64 deep"):
        post(claude, with_blocks(USE | {"input": deep(100)}, RESULT, TEXT))
