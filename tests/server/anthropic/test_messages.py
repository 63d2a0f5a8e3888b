"""Messages through the anthropic client, whole and streamed, with the default model."""

import asyncio
import json
from typing import Any

import anthropic
import httpx
import pytest
from tests.server.anthropic.asking import GREEDY, HELLO

from alpage import Llama
from alpage.server.pool import Pool

OPTIONS: dict[str, Any] = {
    "model": "smollm2", "messages": HELLO, "max_tokens": 20, "extra_body": GREEDY,
}  # fmt: skip


def text_of(message: Any) -> str:
    """The text of an answer of one block."""
    (block,) = message.content
    assert block.type == "text"
    return str(block.text)


@pytest.mark.client("anthropic", "messages: create")
def test_an_answer_is_the_facades(claude: anthropic.Anthropic, llm: Llama) -> None:
    wanted = llm.chat(HELLO, temperature=0, top_p=1, max_tokens=40)
    answer = claude.messages.create(**OPTIONS | {"max_tokens": 40})
    assert text_of(answer) == wanted.text
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "smollm2")
    assert answer.id.startswith("msg_")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    used = answer.usage
    assert used.output_tokens == wanted.usage.completion_tokens
    cached = used.cache_read_input_tokens
    assert cached is not None
    assert used.input_tokens + cached == wanted.usage.prompt_tokens
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


@pytest.mark.client("anthropic", "messages: create with stream=True")
def test_the_events_of_a_stream(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(**OPTIONS)
    events: list[Any] = list(claude.messages.create(**OPTIONS, stream=True))
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * (len(events) - 5),
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, first, *deltas, stop, end, _ = events
    assert (start.message.content, start.message.stop_reason) == ([], None)
    assert start.message.usage.input_tokens == 36
    assert start.message.usage.output_tokens == 0
    assert (first.index, first.content_block.type, first.content_block.text) == (0, "text", "")
    assert {(d.index, d.delta.type) for d in deltas} == {(0, "text_delta")}
    assert len(deltas) > 10
    assert "".join(d.delta.text for d in deltas) == text_of(whole)
    assert stop.index == 0
    assert (end.delta.stop_reason, end.delta.stop_sequence) == ("max_tokens", None)
    assert end.usage.output_tokens == 20
    assert end.usage.input_tokens + end.usage.cache_read_input_tokens == 36


def test_events_are_named_and_answers_tell_their_request(url: str) -> None:
    body = {key: value for key, value in OPTIONS.items() if key != "extra_body"}
    with httpx.stream("POST", f"{url}/v1/messages", json=body | {"stream": True}) as answer:
        text = "".join(answer.iter_text())
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        assert name.removeprefix("event: ") == json.loads(data.removeprefix("data: "))["type"]


@pytest.mark.client("anthropic", "messages: stream helpers, text_stream and get_final_message")
def test_the_helpers_of_a_stream(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(**OPTIONS)
    with claude.messages.stream(**OPTIONS) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == text_of(final) == text_of(whole)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == 20
    with claude.messages.stream(**OPTIONS) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_text() == text_of(whole)
    assert "text" in kinds


@pytest.mark.client("anthropic", "messages: the asynchronous client")
def test_the_asynchronous_client(url: str) -> None:
    async def three_ways() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            whole = await client.messages.create(**OPTIONS)
            events = await client.messages.create(**OPTIONS, stream=True)
            parts = [e.delta.text async for e in events if e.type == "content_block_delta"]
            async with client.messages.stream(**OPTIONS) as stream:
                helped = await stream.get_final_text()
        return [text_of(whole), "".join(parts), helped]

    one, two, three = asyncio.run(three_ways())
    assert one == two == three != ""


@pytest.mark.client("anthropic", "beta messages: create and stream")
def test_beta_messages_are_the_same(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(**OPTIONS)
    answer = claude.beta.messages.create(**OPTIONS, betas=["structured-outputs-2025-11-13"])
    assert text_of(answer) == text_of(whole)
    with claude.beta.messages.stream(**OPTIONS) as stream:
        assert stream.get_final_text() == text_of(whole)


@pytest.mark.client("anthropic", "messages: stop_sequences")
def test_stop_sequences(claude: anthropic.Anthropic) -> None:
    text = text_of(claude.messages.create(**OPTIONS))
    stop = text[8:12]
    stopped = OPTIONS | {"stop_sequences": ["never said", stop]}
    answer = claude.messages.create(**stopped)
    assert text_of(answer) == text[: text.index(stop)]
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    with claude.messages.stream(**stopped) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", stop)


@pytest.mark.client("anthropic", "messages: temperature, top_p, top_k (extra_body)")
def test_sampling_fields_reach_the_engine(claude: anthropic.Anthropic, llm: Llama) -> None:
    def ask(**fields: Any) -> str:
        return text_of(claude.messages.create(**OPTIONS | {"extra_body": {"seed": 5} | fields}))

    greedy = ask(temperature=0)
    assert ask(temperature=5, top_p=0) == greedy
    assert ask(temperature=5, top_k=1) == greedy
    assert ask(temperature=5, min_p=1) == greedy
    assert ask(temperature=0, repetition_penalty=3) != greedy
    # What the client leaves out is Anthropic's default, not ours.
    assert ask() == llm.chat(HELLO, max_tokens=20, seed=5, temperature=1, top_p=1).text
    with pytest.raises(anthropic.BadRequestError, match="top_p must be between 0 and 1, not 2"):
        ask(top_p=2.0)


@pytest.mark.client("anthropic", "messages: system as text and as blocks, system messages")
def test_system_and_blocks(claude: anthropic.Anthropic, llm: Llama) -> None:
    wanted = llm.chat(
        [{"role": "system", "content": "You are terse.\nVery."}, *HELLO],
        temperature=0, max_tokens=20,
    )  # fmt: skip
    blocks: list[Any] = [
        {"type": "text", "text": "You are terse.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Very."},
    ]
    content: Any = [{"type": "text", "text": HELLO[0]["content"]}]
    for fields in (
        {"system": "You are terse.\nVery."},
        {"system": blocks, "messages": [{"role": "user", "content": content}]},
        {"messages": [{"role": "system", "content": blocks}, *HELLO]},
    ):
        assert text_of(claude.messages.create(**OPTIONS | fields)) == wanted.text


@pytest.mark.client("anthropic", "messages: messages of one role put together")
def test_messages_of_one_role_are_put_together(claude: anthropic.Anthropic, llm: Llama) -> None:
    wanted = llm.chat(
        [
            {"role": "user", "content": "Hi.\nI am Ada."},
            {"role": "assistant", "content": "Hi Ada!\nHow are you?"},
            {"role": "user", "content": "Fine."},
        ],
        temperature=0, max_tokens=20,
    )  # fmt: skip
    messages: list[Any] = [
        {"role": "user", "content": "Hi."},
        {"role": "user", "content": [{"type": "text", "text": "I am Ada."}]},
        {"role": "assistant", "content": "Hi Ada!"},
        {"role": "assistant", "content": "How are you?"},
        {"role": "user", "content": "Fine."},
    ]
    answer = claude.messages.create(**OPTIONS | {"messages": messages})
    assert text_of(answer) == wanted.text


@pytest.mark.client("anthropic", "messages: prefill, an answer that goes on from its beginning")
def test_the_last_message_can_begin_the_answer(claude: anthropic.Anthropic) -> None:
    text = text_of(claude.messages.create(**OPTIONS))
    begun, rest = text[:14], text[14:]
    messages = [*HELLO, {"role": "assistant", "content": begun}]
    prefilled = OPTIONS | {"messages": messages, "max_tokens": 8}
    added = text_of(claude.messages.create(**prefilled))
    assert rest.startswith(added)
    with claude.messages.stream(**prefilled) as stream:
        assert stream.get_final_text() == added
    nothing = [*HELLO, {"role": "assistant", "content": []}]
    assert text_of(claude.messages.create(**OPTIONS | {"messages": nothing})) == text


@pytest.mark.client("anthropic", "messages: stop_reason model_context_window_exceeded")
def test_a_full_context(claude: anthropic.Anthropic, llm: Llama) -> None:
    long: list[Any] = [{"role": "user", "content": "word " * (llm.context - 60)}]
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 100}
    answer = claude.messages.create(
        model="smollm2",
        messages=long,
        max_tokens=1000,
        output_config={"format": {"type": "json_schema", "schema": numbers}},
    )
    assert answer.stop_reason == "model_context_window_exceeded"
    with pytest.raises(anthropic.BadRequestError, match="the context holds 512"):
        claude.messages.create(
            model="smollm2", messages=[{"role": "user", "content": "word " * 600}], max_tokens=1
        )


@pytest.mark.client("anthropic", "messages: usage with cache_read_input_tokens")
def test_cached_tokens_are_counted_apart(claude: anthropic.Anthropic) -> None:
    story = "The fox met the owl, and the owl told the fox a story. " * 4
    messages: list[Any] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": story, "cache_control": {"type": "ephemeral"}}],
        }
    ]
    asked: Any = OPTIONS | {"messages": messages, "max_tokens": 1}
    total = claude.messages.count_tokens(model="smollm2", messages=messages).input_tokens
    first = claude.messages.create(**asked)
    second = claude.messages.create(**asked, cache_control={"type": "ephemeral", "ttl": "1h"})
    for answer in (first, second):
        used = answer.usage
        assert used.cache_read_input_tokens is not None
        assert used.input_tokens + used.cache_read_input_tokens == total
        assert used.cache_creation_input_tokens == 0
    assert second.usage.cache_read_input_tokens is not None
    assert second.usage.cache_read_input_tokens >= 32
    assert second.usage.input_tokens >= 1


@pytest.mark.client("anthropic", "messages: an error in the middle of a stream")
def test_a_stream_that_is_cut_off_ends_with_an_error(
    claude: anthropic.Anthropic, models: Pool
) -> None:
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 200}
    stream = claude.messages.create(
        model="smollm2",
        messages=HELLO,
        max_tokens=450,
        output_config={"format": {"type": "json_schema", "schema": numbers}},
        stream=True,
    )
    assert next(stream).type == "message_start"
    models.end_running()
    with pytest.raises(anthropic.APIStatusError, match="shutting down") as caught:
        list(stream)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "overloaded_error"
    assert caught.value.body["request_id"] == caught.value.request_id
