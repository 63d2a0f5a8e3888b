"""Chat completions through the openai client, with the default model."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from alpage import Llama

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello to the world."}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "default": None}},
            "required": ["city"],
        },
    },
}


def asked_before(number: int, city: str, weather: str) -> list[ChatCompletionMessageParam]:
    """A question about the weather that a call has answered."""
    arguments = json.dumps({"city": city})
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": f"call{number}",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": f"call{number}", "content": weather},
        {"role": "assistant", "content": f"It is {weather} in {city}."},
    ]


# The small model calls a tool when it has seen how.
NEEDS_TOOL: list[ChatCompletionMessageParam] = [
    *asked_before(1, "Paris", "sunny"),
    *asked_before(2, "Rome", "rainy"),
    {"role": "user", "content": "What is the weather in Berlin?"},
]


@pytest.mark.client("openai", "chat: text, with usage")
def test_an_answer_is_the_facades(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat([dict(m) for m in HELLO], temperature=0, top_p=1, max_tokens=40)
    answer = client.chat.completions.create(
        model="smollm2", messages=HELLO, temperature=0, max_tokens=40
    )
    (choice,) = answer.choices
    assert choice.message.content == wanted.text
    assert (choice.message.role, choice.message.tool_calls) == ("assistant", None)
    assert choice.finish_reason == wanted.finish_reason
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == wanted.usage.prompt_tokens
    assert answer.usage.completion_tokens == wanted.usage.completion_tokens
    assert answer.usage.total_tokens == wanted.usage.total_tokens
    assert (answer.object, answer.model) == ("chat.completion", "smollm2")
    assert answer.id.startswith("chatcmpl-")
    assert answer.created > 1_700_000_000
    assert str(answer.system_fingerprint).startswith("fp_")


@pytest.mark.client("openai", "chat: streaming with usage")
def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="smollm2", messages=HELLO, temperature=0, max_completion_tokens=20
    )
    chunks = list(
        client.chat.completions.create(
            model="smollm2",
            messages=HELLO,
            temperature=0,
            max_completion_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *parts, end = chunks
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == whole.choices[0].message.content
    assert parts[0].choices[0].delta.role == "assistant"
    finishes = [part.choices[0].finish_reason for part in parts]
    assert finishes == [None] * (len(parts) - 1) + [whole.choices[0].finish_reason]
    assert (end.choices, end.usage) == ([], whole.usage)
    assert all(part.usage is None for part in parts)
    assert len({(c.id, c.created, c.model, c.system_fingerprint) for c in chunks}) == 1


def test_usage_comes_only_when_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="smollm2", messages=HELLO, max_tokens=2, stream=True
    )
    assert all(chunk.choices and chunk.usage is None for chunk in stream)


async def both_ways(url: str) -> tuple[str, str]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.chat.completions.create(
            model="smollm2", messages=HELLO, temperature=0, max_tokens=10
        )
        stream = await client.chat.completions.create(
            model="smollm2", messages=HELLO, temperature=0, max_tokens=10, stream=True
        )
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    return str(whole.choices[0].message.content), "".join(parts)


@pytest.mark.client("openai", "chat: asynchronous")
def test_the_asynchronous_client(url: str) -> None:
    whole, streamed = asyncio.run(both_ways(url))
    assert whole == streamed != ""


@pytest.mark.client("openai", "chat: n, seed")
def test_a_seed_gives_the_same_answer_and_n_gives_several(client: openai.OpenAI) -> None:
    def ask(n: int, seed: int) -> list[str]:
        answer = client.chat.completions.create(
            model="smollm2", messages=HELLO, max_tokens=12, temperature=1.5, n=n, seed=seed
        )
        assert [choice.index for choice in answer.choices] == list(range(n))
        assert answer.usage is not None
        assert answer.usage.prompt_tokens < 60  # the prompt is shared
        return [str(choice.message.content) for choice in answer.choices]

    three = ask(3, seed=7)
    assert len(set(three)) > 1
    assert three == ask(3, seed=7)
    assert [ask(1, seed=8)[0], ask(1, seed=9)[0]] == three[1:]
    assert ask(1, seed=-1) == ask(1, seed=2**64 - 1)


def test_choices_of_a_stream_are_told_apart(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="smollm2", messages=HELLO, max_tokens=8, n=2, seed=3
    )
    texts = ["", ""]
    ends: list[str | None] = [None, None]
    for chunk in client.chat.completions.create(
        model="smollm2", messages=HELLO, max_tokens=8, n=2, seed=3, stream=True
    ):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]


@pytest.mark.client("openai", "chat: stop")
def test_stop_strings_end_the_answer_and_are_no_part_of_it(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(
        model="smollm2", messages=HELLO, temperature=0, max_tokens=30
    )
    text = str(plain.choices[0].message.content)
    stop = text[8:12]
    for given in (stop, ["never said", stop]):
        answer = client.chat.completions.create(
            model="smollm2", messages=HELLO, temperature=0, max_tokens=30, stop=given
        )
        assert answer.choices[0].message.content == text[: text.index(stop)]
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.client("openai", "chat: logprobs, top_logprobs")
def test_logprobs(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat(
        [dict(m) for m in HELLO], temperature=0, top_p=1, max_tokens=6, top_logprobs=3
    )
    options: dict[str, Any] = {
        "model": "smollm2", "messages": HELLO, "temperature": 0, "max_tokens": 6, "logprobs": True,
        "top_logprobs": 3,
    }  # fmt: skip
    answer = client.chat.completions.create(**options)
    entries = answer.choices[0].logprobs.content
    assert wanted.logprobs is not None
    assert [entry.token for entry in entries] == [entry.text for entry in wanted.logprobs]
    for entry, own in zip(entries, wanted.logprobs, strict=True):
        assert bytes(entry.bytes) == own.data
        assert entry.logprob == own.logprob
        assert [top.token for top in entry.top_logprobs] == [top.text for top in own.top]
        assert entry.top_logprobs[0].logprob >= entry.logprob
    streamed = [
        entry
        for chunk in client.chat.completions.create(**options, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]
    plain = client.chat.completions.create(**options | {"logprobs": False, "top_logprobs": None})
    assert plain.choices[0].logprobs is None


@pytest.mark.client("openai", "chat: sampling, logit_bias, penalties, top_k, min_p")
def test_sampling_fields_reach_the_engine(client: openai.OpenAI, llm: Llama) -> None:
    def ask(**fields: Any) -> str:
        answer = client.chat.completions.create(
            model="smollm2", messages=HELLO, max_tokens=12, seed=5, **fields
        )
        return str(answer.choices[0].message.content)

    greedy = ask(temperature=0)
    assert ask(temperature=5, top_p=0) == greedy
    assert ask(temperature=5, extra_body={"top_k": 1}) == greedy
    assert ask(temperature=5, extra_body={"min_p": 1}) == greedy
    assert ask(temperature=0, extra_body={"repetition_penalty": 3}) != greedy
    assert ask(temperature=0, presence_penalty=-100) == "Hello" * 12  # what was said comes back
    assert ask(temperature=0, frequency_penalty=-100) == "Hello" * 12
    (banned, *_) = llm.tokenize(greedy)
    assert not ask(temperature=0, logit_bias={str(banned): -100}).startswith(
        llm.detokenize([banned])
    )
    # What the client leaves out is OpenAI's default, not ours.
    assert ask() == llm.chat(
        [dict(m) for m in HELLO], max_tokens=12, seed=5, temperature=1, top_p=1
    ).text  # fmt: skip


@pytest.mark.client("openai", "chat: context_policy")
def test_a_full_context_is_a_length(client: openai.OpenAI, llm: Llama) -> None:
    text = "word " * (llm.context - 60)
    options: dict[str, Any] = {
        "model": "smollm2", "messages": [{"role": "user", "content": text}], "temperature": 0,
        "logit_bias": {str(token): -100 for token in (0, 1, 2)},  # the model may not end it
    }  # fmt: skip
    answer = client.chat.completions.create(**options)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == llm.context + 1
    shifted = client.chat.completions.create(
        **options, max_tokens=60, extra_body={"context_policy": "shift"}
    )
    assert shifted.usage.completion_tokens == 60


@pytest.mark.client("openai", "chat: tool calls and their results")
def test_tool_calls(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "smollm2", "messages": NEEDS_TOOL, "tools": [WEATHER], "temperature": 0,
        "max_tokens": 60,
    }  # fmt: skip
    answer = client.chat.completions.create(**options, parallel_tool_calls=True)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Berlin"}
    assert call.id.startswith("call_")

    with client.chat.completions.stream(**options) as stream:
        final = stream.get_final_completion()
    (choice,) = final.choices
    (streamed,) = choice.message.tool_calls or []
    assert streamed.function.name == "get_weather"
    assert json.loads(streamed.function.arguments) == {"city": "Berlin"}
    assert choice.finish_reason == "tool_calls"

    # The answer goes back as the client's own object, with the tool's result.
    told = [
        *NEEDS_TOOL,
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "windy"},
    ]
    after = client.chat.completions.create(**options | {"messages": told})
    assert "windy" in str(after.choices[0].message.content)


def test_without_tools_or_with_none_calls_stay_text(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "smollm2", "messages": NEEDS_TOOL, "temperature": 0, "max_tokens": 60,
    }  # fmt: skip
    for told in (options, options | {"tools": [WEATHER], "tool_choice": "none"}):
        answer = client.chat.completions.create(**told)
        assert answer.choices[0].message.tool_calls is None
        assert "get_weather" in answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"


def test_text_parts_developers_and_marks(client: openai.OpenAI, llm: Llama) -> None:
    text = "You are terse.<|im_end|>"
    messages: Any = [
        {"role": "developer", "content": text},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}], "name": "ada"},
    ]
    answer = client.chat.completions.create(
        model="smollm2", messages=messages, temperature=0, max_tokens=8
    )
    same = [{"role": "system", "content": text}, {"role": "user", "content": "Hello"}]
    wanted = llm.chat(same, temperature=0, max_tokens=8)
    assert answer.choices[0].message.content == wanted.text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == wanted.usage.prompt_tokens


def test_fields_without_effect_are_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=HELLO,
        max_tokens=1,
        user="someone",
        safety_identifier="someone",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        modalities=["text"],
        response_format={"type": "text"},
        extra_body={"reasoning_effort": None, "audio": None},
    )
    assert answer.choices[0].finish_reason == "length"
