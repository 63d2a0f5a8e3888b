"""What upstreams are asked, what is refused by name, and how answers are put together."""

import asyncio
import json
from typing import Any

import pytest
from tests.server.upstream.asking import HI, SECRET, ask, model_of, once, text
from tests.server.upstream.scripted import (
    GOOD,
    USAGE,
    Scripted,
    Step,
    delta,
    events,
    head,
    says,
    scripted,
)

from alpage.core.errors import CapacityError, UsageError
from alpage.server.backends.fleet import Endpoints
from alpage.server.backends.protocol import Terms
from alpage.server.backends.upstream import UpstreamModel
from alpage.server.errors import RequestError
from alpage.server.queries import ChatQuery, EmbedQuery, TextQuery
from alpage.server.running import Queue


def test_what_is_sent() -> None:
    async def run() -> None:
        with scripted(GOOD) as server:
            model = UpstreamModel(
                "far",
                "their-model",
                Endpoints(name="far", urls=(server.url,), key=SECRET),
                extensions=["top_k"],
            )
            assert SECRET not in repr(model.fleet.options)
            tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
            query = ChatQuery(
                messages=[{"role": "user", "content": "Hi"}],
                tools=tools,
                tool="f",
                parallel_tool_calls=False,
                options={"temperature": 0.5, "top_k": 3, "min_p": 0.0, "max_tokens": 9, "seed": 4,
                         "top_logprobs": 2, "json_schema": {"type": "object", "required": ["a"]},
                         "logit_bias": {5: 1.0}},
                stop=["x"],
            )  # fmt: skip
            await ask(model, query)
            (asked,) = server.asked
            assert asked.path == "/v1/chat/completions"
            assert asked.headers["authorization"] == f"bearer {SECRET}"
            assert asked.headers["accept-encoding"] == "identity"
            schema = {"name": "answer", "strict": True,
                      "schema": {"type": "object", "required": ["a"]}}  # fmt: skip
            assert asked.body == {
                "model": "their-model", "stream": True, "stream_options": {"include_usage": True},
                "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "top_k": 3,
                "max_tokens": 9, "seed": 4, "logprobs": True, "top_logprobs": 2, "tools": tools,
                "tool_choice": {"type": "function", "function": {"name": "f"}},
                "parallel_tool_calls": False, "logit_bias": {"5": 1.0}, "stop": ["x"],
                "response_format": {"type": "json_schema", "json_schema": schema},
            }  # fmt: skip

    asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"top_k": 3}, "top_k"),
        ({"min_p": 0.1}, "min_p"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"context_policy": "shift"}, "context_policy"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"stop_token_ids": [3]}, "stop_token_ids"),
        ({"regex": "a+"}, "regex"),
        ({"grammar": 'start: "a"'}, "grammar"),
        ({"adapter": "legal"}, "adapter"),
        ({"something_new": 1}, "something_new"),
    ],
)
def test_options_of_ours_are_refused_by_name(options: Any, param: str) -> None:
    model = model_of(Scripted(url="http://127.0.0.1:9/v1"))
    with pytest.raises(RequestError, match=f"^{param} is not taken by this model") as told:
        model.prepare(ChatQuery(messages=HI.messages, options=options))
    assert told.value.param == param
    with pytest.raises(UsageError, match="temperature must be between"):
        model.prepare(ChatQuery(messages=HI.messages, options={"temperature": 1e9}))


def test_more_that_cannot_be_asked_elsewhere() -> None:
    model = model_of(Scripted(url="http://127.0.0.1:9/v1"))
    with pytest.raises(RequestError, match="cannot be scored by a model that runs elsewhere"):
        model.prepare(TextQuery(prompts=[[1, 2]], score_prompts=True))
    with pytest.raises(RequestError, match="prompts of token ids cannot be echoed"):
        model.text_of([1])
    with pytest.raises(RequestError, match="text 1 is empty"):
        model.prepare_embedding(EmbedQuery(inputs=["a", ""]))
    with pytest.raises(UsageError, match="no extension 'top_q'; known are: top_k"):
        UpstreamModel("a", "b", model.fleet.options, extensions=["top_q"])
    for url in ("ftp://x", "http://", "x", "http://user:word@x/v1"):
        with pytest.raises(UsageError, match=r"an upstream's url is http\(s\)://HOST"):
            Endpoints(name="a", urls=(url,))
    with pytest.raises(UsageError, match="has no url"):
        Endpoints(name="a", urls=())


def test_answers_bounded_by_an_allowance() -> None:
    model = model_of(Scripted(url="http://127.0.0.1:9/v1"))
    prepared = model.prepare(ChatQuery(messages=HI.messages, choices=2))
    assert (prepared.answer_tokens, prepared.bounded(30).answer_tokens) == (None, 30)
    short = model.prepare(TextQuery(prompts=["a", "b"], options={"max_tokens": 4}))
    assert (short.answers, short.choices, short.answer_tokens) == (2, 1, 8)
    assert short.bounded(100).answer_tokens == 8


def test_who_waits_at_an_upstream_is_bounded() -> None:
    async def run() -> None:
        with scripted() as server:
            server.steps = [server.until_left(head())]
            model = model_of(server, queue=Queue(requests=2))
            first = [asyncio.create_task(ask(model)) for _ in range(2)]
            while len(server.asked) < 2:
                await asyncio.sleep(0.005)
            with pytest.raises(RequestError, match="too many requests wait") as told:
                await ask(model)
            assert (told.value.status, told.value.code) == (503, "queue_full")
            model.end_running()
            found = await asyncio.gather(*first, return_exceptions=True)
            assert [type(error) for error in found] == [CapacityError] * 2
            assert model._activity.waiting == 0

    asyncio.run(run())


def vectors(*rows: Any, **more: Any) -> Step:
    data = [{"index": i, "embedding": row} for i, row in enumerate(rows)]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 9}} | more)
    return says(head(), body.encode())


def embed(step: Step, *texts: str) -> Any:
    async def run() -> Any:
        with scripted(step) as server:
            prepared = model_of(server).prepare_embedding(EmbedQuery(inputs=texts))
            found = await prepared.run(Terms())
            assert server.asked[0].body == {
                "model": "their-model", "input": list(texts), "encoding_format": "float",
            }  # fmt: skip
            assert server.asked[0].path == "/v1/embeddings"
            return found, prepared.prompt_tokens

    return asyncio.run(run())


def test_vectors() -> None:
    found, tokens = embed(vectors([3, 4], [0, 2.0]), "a", "b")
    assert found.tolist() == [pytest.approx([0.6, 0.8]), [0.0, 1.0]]
    assert (found.dtype, tokens) == ("float32", 9)
    swapped = {"data": [{"index": 1, "embedding": [1, 0]}, {"index": 0, "embedding": [0, 1]}]}
    assert embed(vectors(**swapped), "a", "b")[0].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "step",
    [
        vectors([1.0]),
        vectors([1.0], [1.0, 2.0]),
        vectors([1.0], ["x"]),
        vectors([1.0], [0.0]),
        vectors([1.0], []),
        vectors([1.0], [1e300 * 1e10]),
        vectors([[1.0]], [[1.0]]),
        vectors([1.0], None),
        vectors(data=[{"index": 0, "embedding": [1]}] * 2),
        vectors(data={"a": 1}),
        says(head(), b"[]"),
        says(head(), b'{"data": ['),
    ],
)
def test_vectors_that_are_none(step: Step) -> None:
    with pytest.raises(RequestError, match="the upstream far ") as told:
        embed(step, "a", "b")
    assert told.value.status == 502


def test_calls_of_tools_are_put_together() -> None:
    def part(place: int, **function: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": place, "function": function}])

    step = says(head(), events(
        delta("Well"), part(1, name="g"), part(0, name="f", arguments='{"ci'),
        part(0, arguments='ty": "Bern"}'), delta(finish="tool_calls"), USAGE,
    ))  # fmt: skip
    (pieces,) = once(step)
    assert text(pieces) == "Well"
    calls = [(call.name, call.arguments, call.parsed) for call in pieces[-1].tool_calls]
    assert calls == [("f", '{"city": "Bern"}', {"city": "Bern"}), ("g", "{}", {})]
    assert pieces[-1].finish_reason == "stop"


def test_usage_of_several_answers_adds_up() -> None:
    first = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}
    second = {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "length"}]}
    step = says(head(), events(first, second, USAGE))
    found = once(step, query=ChatQuery(messages=HI.messages, choices=2))
    usages = [pieces[-1].usage for pieces in found]
    assert [(u.prompt_tokens, u.completion_tokens) for u in usages if u] == [(7, 1), (0, 4)]
