"""Upstreams that lie, stall and flood: each ends in one clear error."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.server.upstream.asking import HI, ask, model_of, once, text
from tests.server.upstream.scripted import (
    GOOD,
    Step,
    delta,
    events,
    head,
    says,
    scripted,
)

from alpage.core.errors import AlpageError, CapacityError
from alpage.server.backends.protocol import Terms
from alpage.server.errors import RequestError
from alpage.server.queries import ChatQuery


def test_an_answer_with_its_usage() -> None:
    (pieces,) = once(GOOD)
    assert text(pieces) == "Hello"
    assert pieces[-1].finish_reason == "stop"
    usage = pieces[-1].usage
    assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (7, 5)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": "7", "completion_tokens": 2},
        {"prompt_tokens": 7, "completion_tokens": 1e300},
        {"prompt_tokens": True, "completion_tokens": 2},
        {"prompt_tokens": 10**30, "completion_tokens": 2},
        [7, 2],
    ],
)
def test_a_usage_that_cannot_be_is_counted_here(usage: Any) -> None:
    last = {"choices": [], "usage": usage}
    (pieces,) = once(says(head(), events(delta("Hel"), delta("lo", "length"), last)))
    found = pieces[-1].usage
    assert found is not None and found.completion_tokens == 2
    assert 1 <= found.prompt_tokens < 20


GARBAGE = [
    (b"\x00\x01\x02", "broke its answer off"),
    (b"data: {\n\n", "something else than JSON objects"),
    (b"data: [1]\n\n", "something else than JSON objects"),
    (b'data: {"choices": NaN}\n\n', "something else than JSON objects"),
    (b"data: " + b"[" * 100_000 + b"\n\n", "something else than JSON objects"),
    (b"data: {}\n\n", "an event without choices"),
    (events({"choices": [{"index": 1, "delta": {}}]}), "number was not asked for"),
    (events({"choices": [{"index": -1, "delta": {}}]}), "number was not asked for"),
    (events({"choices": [7]}), "number was not asked for"),
    (events({"choices": [{"index": 0, "delta": [1]}]}), "without a delta"),
    (events(delta("x"), delta(finish="magic")), "for the reason 'magic'"),
    (events({"choices": [{"delta": {"content": 5}}]}), "where text belongs"),
    (events(delta("a", "stop"), delta("b")), "goes on with an answer that has ended"),
    (events(delta("a"), done=False), "broke its answer off in the middle"),
    (events(delta("a"), done=True), "broke its answer off in the middle"),
    (events(delta("a"), {"error": {"message": "out of memory"}}), "out of memory"),
    (
        events(delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{"}}]),
               delta(finish="tool_calls")),
        "arguments that are no object",
    ),
    (events(delta(tool_calls=[{"index": 10**9}])), "a call of a tool without a place"),
    (
        events({"choices": [{"delta": {}, "logprobs": {"content": [{"token": "a"}]}}]}),
        "where a number belongs",
    ),
    (
        events({"choices": [{"delta": {}, "logprobs": {"content": [
            {"token": "a", "bytes": [999], "logprob": -1.0}]}}]}),
        "whose bytes are none",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), GARBAGE, ids=[m for _, m in GARBAGE])
def test_garbage(body: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message) as told:
        once(says(head(), body))
    assert told.value.status == 502
    assert str(told.value).startswith("the upstream far ")


def test_what_would_fill_the_memory() -> None:
    def endless(part: bytes) -> Step:
        def step(sock: Any) -> None:
            sock.sendall(head())
            while True:
                sock.sendall(part)

        return step

    with pytest.raises(RequestError, match="a line of more than 100000 bytes"):
        once(endless(b"x" * 65536), most_line=100_000)
    with pytest.raises(RequestError, match="more than 300000 bytes"):
        once(endless(b": nothing\n" * 1000), most_bytes=300_000)
    arguments = [{"index": 0, "function": {"name": "f", "arguments": "x" * 60_000}}]
    with pytest.raises(RequestError, match="more than 1 MiB of arguments"):
        once(endless(events(delta(tool_calls=arguments), done=False)))
    with pytest.raises(RequestError, match="compressed its answer"):
        once(says(head("200 OK", "content-encoding: gzip"), b"\x1f\x8b"))


def test_servers_that_stall() -> None:
    async def run() -> None:
        with scripted() as server:
            server.steps = [server.until_left()]
            with pytest.raises(RequestError, match="has not answered in time") as told:
                await ask(model_of(server, first_byte=0.1))
            assert told.value.status == 504
            server.steps = [server.until_left(head(), events(delta("a"), done=False))]
            with pytest.raises(RequestError, match=r"has said nothing for 0\.1 seconds") as told:
                await ask(model_of(server, idle=0.1))
            assert told.value.status == 504
            # Our own limit is no fault of theirs: the answer ends with what is there.
            terms = Terms(timeout=0.2)
            brief = ChatQuery(messages=HI.messages, options={"timeout": 0.2})
            for query, limit in ((HI, terms), (brief, Terms())):
                (pieces,) = await ask(model_of(server), query, terms=limit)
                assert (text(pieces), pieces[-1].finish_reason) == ("a", "deadline")

    asyncio.run(run())


def test_the_end_of_the_server_and_of_the_client_close_the_connection() -> None:
    async def run() -> None:
        with scripted() as server:
            server.steps = [server.until_left(head(), events(delta("a"), done=False))]
            model = model_of(server)
            async with model.prepare(HI).run(Terms()) as pieces:
                assert (await anext(pieces))[1].text == "a"
                assert model.report() == [{"breaker": "closed", "active_requests": 1}]
                assert model.active == 1
            assert await asyncio.to_thread(server.left.wait, 30)
            assert model.active == 0
            server.left.clear()
            asked = asyncio.create_task(ask(model))
            while model.report()[0]["active_requests"] == 0 or len(server.asked) < 2:
                await asyncio.sleep(0.005)
            model.end_running()
            with pytest.raises(CapacityError, match="shutting down"):
                await asked
            assert await asyncio.to_thread(server.left.wait, 30)
            assert model.report() == [{"breaker": "closed", "active_requests": 0}]
            await model.leave()

    asyncio.run(run())


def test_an_error_is_always_one_of_ours() -> None:
    """Whatever an upstream's text looks like, nothing but an AlpageError comes of it."""
    odd: list[Callable[[], bytes]] = [
        lambda: b"HTTP/1.1 999 \r\n\r\n",
        lambda: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        lambda: b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        lambda: b"nothing like HTTP\r\n\r\n",
        lambda: head("200 OK", "x: " + "y" * 200_000),
        lambda: b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    ]
    for make in odd:
        with pytest.raises(AlpageError, match="the upstream far "):
            once(says(make()))
