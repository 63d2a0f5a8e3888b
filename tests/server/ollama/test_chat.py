"""Chats through the ollama client, with the default model."""

import asyncio
import json
from typing import Any

import ollama
import pytest

from alpage import Llama

HELLO = [{"role": "user", "content": "Say hello to the world."}]
GREEDY = {"temperature": 0, "num_predict": 20}


def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
      city: Name of the city.
    """
    return f"sunny in {city}"


def asked_before(city: str, weather: str) -> list[dict[str, Any]]:
    """A question about the weather that a call has answered."""
    call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": weather},
        {"role": "assistant", "content": f"It is {weather} in {city}."},
    ]


# The small model calls a tool when it has seen how.
NEEDS_TOOL = [
    *asked_before("Paris", "sunny"),
    *asked_before("Rome", "rainy"),
    {"role": "user", "content": "What is the weather in Berlin?"},
]


@pytest.mark.client("ollama", "chat: whole answers, with counts and durations")
def test_an_answer_is_the_facades(asking: ollama.Client, llm: Llama) -> None:
    wanted = llm.chat(HELLO, temperature=0, max_tokens=20)
    answer = asking.chat("smollm2", HELLO, options=GREEDY)
    assert answer.message.content == wanted.text
    assert (answer.message.role, answer.message.tool_calls) == ("assistant", None)
    assert (answer.model, answer.done, answer.done_reason) == ("smollm2", True, "length")
    assert answer.prompt_eval_count == wanted.usage.prompt_tokens
    assert answer.eval_count == wanted.usage.completion_tokens == 20
    parts = (answer.load_duration, answer.prompt_eval_duration, answer.eval_duration)
    assert answer.total_duration is not None
    assert all(part is not None and 0 <= part <= answer.total_duration for part in parts)
    assert str(answer.created_at).endswith("Z")


@pytest.mark.client("ollama", "chat: streaming")
def test_a_stream_says_the_same(asking: ollama.Client) -> None:
    whole = asking.chat("smollm2", HELLO, options=GREEDY)
    parts = list(asking.chat("smollm2", HELLO, options=GREEDY, stream=True))
    assert len(parts) > 5
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(part.done_reason is None and part.eval_count is None for part in parts[:-1])
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("length", 20)
    assert parts[-1].prompt_eval_count == whole.prompt_eval_count


@pytest.mark.client("ollama", "chat: the asynchronous client")
def test_many_at_once(url: str, asking: ollama.Client) -> None:
    """Company in the batch changes no answer."""
    alone = asking.chat("smollm2", HELLO, options=GREEDY).message.content

    async def ask() -> list[str]:
        async with ollama.AsyncClient(url, timeout=120) as client:

            async def streamed() -> str:
                parts = await client.chat("smollm2", HELLO, options=GREEDY, stream=True)
                return "".join([part.message.content or "" async for part in parts])

            whole = [client.chat("smollm2", HELLO, options=GREEDY) for _ in range(2)]
            texts = [str(answer.message.content) for answer in await asyncio.gather(*whole)]
            texts += await asyncio.gather(streamed(), streamed())
            return texts

    assert asyncio.run(ask()) == [alone] * 4


@pytest.mark.client("ollama", "chat: tools, as functions or definitions")
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(asking: ollama.Client, stream: bool) -> None:
    options = {"temperature": 0, "num_predict": 60}
    asked: dict[str, Any] = {"tools": [get_weather], "options": options}
    if stream:
        parts = list(asking.chat("smollm2", NEEDS_TOOL, stream=True, **asked))
        messages = [part.message for part in parts]
        assert parts[-1].done_reason == "stop"
    else:
        messages = [asking.chat("smollm2", NEEDS_TOOL, **asked).message]
    (call,) = [call for message in messages for call in message.tool_calls or ()]
    assert call.function.name == "get_weather"
    assert call.function.arguments == {"city": "Berlin"}
    assert "".join(message.content or "" for message in messages) == ""
    # The answer goes back as it came, with what the tool said.
    said = {"role": "tool", "tool_name": "get_weather", "content": get_weather("Berlin")}
    done = ollama.Message(role="assistant", content="", tool_calls=[call])
    after = asking.chat("smollm2", [*NEEDS_TOOL, done, said], **asked)
    assert "sunny" in str(after.message.content)


@pytest.mark.client("ollama", "chat: format json, and a JSON schema")
def test_a_format_is_followed(asking: ollama.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    question = [{"role": "user", "content": "What is the capital of France?"}]
    options = {"temperature": 0, "num_predict": 100}
    answer = asking.chat("smollm2", question, format=schema, options=options)
    assert answer.message.content == '{"city": "Paris"}'
    plain = asking.chat("smollm2", question, format="json", options=options)
    if plain.done_reason == "stop":
        assert isinstance(json.loads(str(plain.message.content)), dict)
    assert str(plain.message.content).startswith("{")
    nothing = asking.chat("smollm2", question, format="", options=options)
    assert "Paris" in str(nothing.message.content)


@pytest.mark.client("ollama", "chat: format with keywords that cannot be enforced", refused=True)
def test_a_format_that_cannot_be_followed(asking: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match=r"^format uses keywords that cannot.*if") as hit:
        asking.chat("smollm2", HELLO, format={"type": "object", "if": {}})
    assert hit.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="leaves no room for calls of tools"):
        asking.chat("smollm2", HELLO, format={"type": "object"}, tools=[get_weather])


@pytest.mark.client("ollama", "chat: logprobs and top_logprobs")
def test_logprobs(asking: ollama.Client, llm: Llama) -> None:
    wanted = llm.chat(HELLO, temperature=0, max_tokens=3, top_logprobs=2)
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
    options = {"temperature": 0, "num_predict": 3}
    whole = asking.chat("smollm2", HELLO, options=options, **asked)
    parts = asking.chat("smollm2", HELLO, options=options, stream=True, **asked)
    streamed = [token for part in parts for token in part.logprobs or ()]
    assert whole.logprobs is not None and wanted.logprobs is not None
    assert [token.logprob for token in streamed] == [token.logprob for token in whole.logprobs]
    for token, other in zip(whole.logprobs, wanted.logprobs, strict=True):
        assert (token.token, token.logprob) == (other.text, other.logprob)
        assert token.top_logprobs is not None
        assert [(t.token, t.logprob) for t in token.top_logprobs] == [
            (t.text, t.logprob) for t in other.top
        ]
    with pytest.raises(ollama.ResponseError, match="top_logprobs needs logprobs=true"):
        asking.chat("smollm2", HELLO, top_logprobs=2)


@pytest.mark.client("ollama", "chat: no messages load the model")
def test_nothing_to_answer(asking: ollama.Client) -> None:
    answer = asking.chat("smollm2", [])
    assert (answer.done, answer.done_reason, answer.message.content) == (True, "load", "")
    (part,) = asking.chat("smollm2", stream=True)
    assert part.done_reason == "load"


@pytest.mark.client("ollama", "names: NAME:latest is NAME")
def test_latest_is_the_bare_name(asking: ollama.Client) -> None:
    options = {"num_predict": 1}
    assert asking.chat("smollm2:latest", HELLO, options=options).model == "smollm2:latest"
    with pytest.raises(ollama.ResponseError, match="no model 'smollm2:8b' here") as caught:
        asking.chat("smollm2:8b", HELLO, options=options)
    assert caught.value.status_code == 404


@pytest.mark.client("ollama", "chat: think", refused=True)
def test_thinking_is_refused(asking: ollama.Client) -> None:
    options = {"num_predict": 1}
    assert asking.chat("smollm2", HELLO, think=False, options=options).done
    for wanted in (True, "high"):
        with pytest.raises(ollama.ResponseError, match=r"think is .*: supported is false"):
            asking.chat("smollm2", HELLO, think=wanted)


@pytest.mark.client("ollama", "chat: images", refused=True)
def test_images_are_refused(asking: ollama.Client) -> None:
    seen = [{"role": "user", "content": "What is this?", "images": [b"\x89PNG"]}]
    with pytest.raises(ollama.ResponseError, match=r"messages\[0\].images is .* not support it"):
        asking.chat("smollm2", seen)


def test_a_bad_conversation_is_told_before_the_stream(asking: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match=r"messages\[0\] \(user\) has no con") as caught:
        list(asking.chat("smollm2", [{"role": "user"}], stream=True))
    assert caught.value.status_code == 400
    long = [{"role": "user", "content": "word " * 600}]
    with pytest.raises(ollama.ResponseError, match="context holds 512"):
        asking.chat("smollm2", long)
