"""JSON out of chat completions, through the openai client, with the default model."""

import json
import re
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessageParam

ASK: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Which colour has the sky? Answer in JSON."}
]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["blue", "green"]}, "sure": {"type": "boolean"}},
    "required": ["colour", "sure"],
    "additionalProperties": False,
}


class Sky(pydantic.BaseModel):
    colour: str = pydantic.Field(max_length=20)
    sure: bool


NO_SCHEMA: Any = []


def wanted(schema: dict[str, Any], **more: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "sky", "schema": schema, **more}}


@pytest.mark.parametrize("more", [{}, {"strict": True}, {"strict": False, "description": "x"}])
def test_the_answer_follows_the_schema(client: openai.OpenAI, more: dict[str, Any]) -> None:
    answer = client.chat.completions.create(
        model="smollm2", messages=ASK, response_format=wanted(SCHEMA, **more), n=2, seed=1,
        max_tokens=60,
    )  # fmt: skip
    assert len(answer.choices) == 2
    for choice in answer.choices:
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)
        assert choice.finish_reason == "stop"


@pytest.mark.client("openai", "chat: json_schema, streaming")
def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    options: Any = {"model": "smollm2", "messages": ASK, "seed": 4, "temperature": 0}
    options["response_format"] = wanted(SCHEMA)
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.client("openai", "chat: json_object")
def test_a_json_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2", messages=ASK, response_format={"type": "json_object"}, temperature=0,
        max_tokens=60,
    )  # fmt: skip
    (choice,) = answer.choices
    text = choice.message.content or ""
    assert text.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(text), dict)
    else:
        assert choice.finish_reason == "length"


@pytest.mark.parametrize(
    ("wish", "message", "param"),
    [
        (wanted({"uniqueItems": True}), "uniqueItems", "response_format"),
        ({"type": "json_schema"}, "has a json_schema with", "response_format"),
        ({"type": "json_object", "json_schema": {"name": "a", "schema": {}}}, "with no other",
         "response_format"),
        (wanted(NO_SCHEMA), "schema is []", "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "required",
         "response_format.json_schema.schema"),
        (wanted({}, strictly=True), "no such field", "response_format.json_schema.strictly"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused(url: str, wish: Any, message: str, param: str) -> None:
    body = {"model": "smollm2", "messages": ASK, "response_format": wish, "max_tokens": 1}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_tools_leave_no_room(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="leaves no room for calls of tools"):
        client.chat.completions.create(
            model="smollm2", messages=ASK, response_format=wanted(SCHEMA), max_tokens=1,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )  # fmt: skip


@pytest.mark.client("openai", "chat: regex and grammar")
def test_a_regular_expression_or_a_grammar(client: openai.OpenAI) -> None:
    rules = {"regex": "(yes|no), [0-9]{2}", "grammar": 'start: "yes, 12" | "no, 34"'}
    for name, rule in rules.items():
        chat = client.chat.completions.create(
            model="smollm2", messages=ASK, max_tokens=20, seed=2, extra_body={name: rule}
        )
        text = client.completions.create(
            model="smollm2", prompt="So: ", max_tokens=20, seed=2, extra_body={name: rule}
        )
        for answer in (str(chat.choices[0].message.content), text.choices[0].text):
            assert re.fullmatch(rules["regex"], answer)
    strict = wanted(SCHEMA, strict=True)
    with pytest.raises(openai.BadRequestError, match="response_format and regex both say"):
        client.chat.completions.create(
            model="smollm2", messages=ASK, response_format=strict, extra_body={"regex": "a"}
        )


@pytest.mark.client("openai", "chat: json_schema strict, parse helper")
def test_the_clients_own_parser(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model="smollm2", messages=ASK, response_format=Sky, temperature=0, max_tokens=60
    )
    assert isinstance(parsed.choices[0].message.parsed, Sky)


@pytest.mark.client("openai", "chat: timeout")
def test_time_that_runs_out_is_a_length(client: openai.OpenAI) -> None:
    endless = {"timeout": 0.2, "context_policy": "shift"}
    answer = client.chat.completions.create(
        model="smollm2", messages=ASK, logit_bias={"0": -100, "1": -100, "2": -100},
        extra_body=endless,
    )  # fmt: skip
    assert answer.choices[0].finish_reason == "length"
    response = client.responses.create(
        model="smollm2", input="On and on",
        extra_body=endless | {"logit_bias": {"0": -100, "1": -100, "2": -100}},
    )  # fmt: skip
    assert response.status == "incomplete"
