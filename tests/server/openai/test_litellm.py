"""litellm against the server, with the default model."""

import asyncio
import json
import os
from typing import Any

import numpy as np
import pytest

from alpage import Llama

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import asks the network for prices
import litellm

litellm.telemetry = False

HELLO = [{"role": "user", "content": "Say hello to the world."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def to(url: str) -> dict[str, Any]:
    """Where litellm sends to."""
    return {
        "model": "openai/smollm2", "api_base": f"{url}/v1", "api_key": "none", "max_retries": 0,
        "temperature": 0,
    }  # fmt: skip


@pytest.mark.client("litellm", "chat: completion")
def test_completion(to: dict[str, Any], llm: Llama) -> None:
    wanted = llm.chat([dict(m) for m in HELLO], temperature=0, top_p=1, max_tokens=20)
    answer: Any = litellm.completion(**to, messages=HELLO, max_tokens=20, seed=1)
    assert answer.choices[0].message.content == wanted.text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == wanted.usage.prompt_tokens
    assert answer.usage.completion_tokens == 20


@pytest.mark.client("litellm", "chat: extensions")
def test_extensions(to: dict[str, Any]) -> None:
    answer: Any = litellm.completion(
        **to, messages=HELLO, max_tokens=20, extra_body={"regex": "[0-9]{4}", "top_k": 5}
    )
    assert answer.choices[0].message.content.isdigit()


@pytest.mark.client("litellm", "chat: streaming with usage")
def test_streaming(to: dict[str, Any]) -> None:
    whole: Any = litellm.completion(**to, messages=HELLO, max_tokens=20)
    chunks: list[Any] = list(
        litellm.completion(
            **to, messages=HELLO, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 20


@pytest.mark.client("litellm", "chat: acompletion")
def test_acompletion(to: dict[str, Any]) -> None:
    async def both() -> tuple[str, str]:
        whole: Any = await litellm.acompletion(**to, messages=HELLO, max_tokens=10)
        stream: Any = await litellm.acompletion(**to, messages=HELLO, max_tokens=10, stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(parts)

    whole, streamed = asyncio.run(both())
    assert whole == streamed != ""


@pytest.mark.client("litellm", "chat: JSON")
def test_json(to: dict[str, Any]) -> None:
    schema = {
        "type": "object", "properties": {"colour": {"enum": ["blue", "red"]}},
        "required": ["colour"], "additionalProperties": False,
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "sky", "schema": schema, "strict": True}}
    answer: Any = litellm.completion(**to, messages=HELLO, max_tokens=30, response_format=form)
    assert json.loads(answer.choices[0].message.content)["colour"] in ("blue", "red")


@pytest.mark.client("litellm", "chat: tools")
def test_tools(to: dict[str, Any]) -> None:
    asked = [{"role": "user", "content": "What is the weather in Berlin?"}]
    options: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 80}
    answer: Any = litellm.completion(**to, messages=asked, **options)
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    assert answer.choices[0].finish_reason == "tool_calls"
    chunks = list(litellm.completion(**to, messages=asked, **options, stream=True))
    built: Any = litellm.stream_chunk_builder(chunks)
    streamed = built.choices[0].message.tool_calls[0]
    assert streamed.function.name == "get_weather"
    assert streamed.function.arguments == call.function.arguments


@pytest.mark.client("litellm", "completions: text_completion")
def test_text_completion(to: dict[str, Any], llm: Llama) -> None:
    wanted = llm.generate("One, two,", temperature=0, top_p=1, max_tokens=6).text
    there = to | {"model": "text-completion-openai/smollm2"}
    answer: Any = litellm.text_completion(**there, prompt="One, two,", max_tokens=6)
    assert answer.choices[0].text == wanted
    score = llm.logprobs("One, two,")
    scored: Any = litellm.text_completion(
        **there, prompt="One, two,", max_tokens=1, echo=True, logprobs=1
    )
    found = scored.choices[0].logprobs.token_logprobs[: len(score.tokens)]
    assert found == [token.logprob for token in score.tokens]


@pytest.mark.client("litellm", "embeddings: texts")
def test_embedding(to: dict[str, Any], llm: Llama) -> None:
    there = {name: value for name, value in to.items() if name != "temperature"}
    answer: Any = litellm.embedding(**there, input=["A pasture", "An alp"])
    found = np.array([entry["embedding"] for entry in answer.data], np.float32)
    assert np.array_equal(found, llm.embed(["A pasture", "An alp"]))
    assert answer.usage.prompt_tokens > 0


@pytest.mark.client("litellm", "responses: text and streaming")
def test_responses(to: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"input": "Say hello to the world.", "max_output_tokens": 200}
    answer: Any = litellm.responses(**to, **asked)
    text = answer.output[0].content[0].text
    assert text
    stream: Any = litellm.responses(**to, **asked, stream=True)
    events = list(stream)
    kinds = [str(getattr(event.type, "value", event.type)) for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    deltas = [e.delta for e, k in zip(events, kinds, strict=True)
              if k == "response.output_text.delta"]  # fmt: skip
    assert "".join(deltas) == text


@pytest.mark.client("litellm", "errors: an exception for each kind")
def test_errors(to: dict[str, Any]) -> None:
    with pytest.raises(litellm.exceptions.NotFoundError, match="no model 'gpt-9' here"):
        litellm.completion(**to | {"model": "openai/gpt-9"}, messages=HELLO)
    with pytest.raises(litellm.exceptions.ContextWindowExceededError, match="the context holds"):
        litellm.completion(**to, messages=[{"role": "user", "content": "word " * 2000}])
    with pytest.raises(litellm.exceptions.BadRequestError, match="top_p must be between 0 and 1"):
        litellm.completion(**to, messages=HELLO, top_p=7)
