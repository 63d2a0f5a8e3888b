"""Upstreams that fail, lie, stall and flood: each ends in one clear error, or is tried again."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.server.upstream.scripted import (
    GOOD,
    USAGE,
    Scripted,
    Step,
    delta,
    events,
    head,
    refusal,
    says,
    scripted,
)

from alpage.core.errors import AlpageError, CapacityError, UsageError
from alpage.llama import Piece
from alpage.server.backends.breaker import Breaker
from alpage.server.backends.fleet import Endpoints
from alpage.server.backends.protocol import Terms
from alpage.server.backends.upstream import UpstreamModel
from alpage.server.errors import RequestError, headers_of
from alpage.server.queries import ChatQuery, EmbedQuery, TextQuery
from alpage.server.running import Queue

SECRET = "sk-very-secret"
HI = ChatQuery(messages=[{"role": "user", "content": "Hi"}])


def model_of(*servers: Scripted, queue: Queue | None = None, **how: Any) -> UpstreamModel:
    given: dict[str, Any] = {"attempts": 1, "idle": 30.0, "first_byte": 30.0, "key": SECRET}
    urls = tuple(server.url for server in servers)
    return UpstreamModel(
        "far", "their-model", Endpoints(name="far", urls=urls, **given | how), queue=queue
    )


async def ask(
    model: UpstreamModel, query: ChatQuery | TextQuery = HI, terms: Terms | None = None
) -> list[list[Piece]]:
    prepared = model.prepare(query)
    found: list[list[Piece]] = [[] for _ in range(prepared.answers)]
    async with prepared.run(terms or Terms()) as pieces:
        async for index, piece in pieces:
            found[index].append(piece)
    assert model.active == 0 or model._activity.count == prepared.answers
    return found


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def once(*steps: Step, query: ChatQuery | TextQuery = HI, **how: Any) -> list[list[Piece]]:
    async def run() -> list[list[Piece]]:
        with scripted(*steps) as server:
            model = model_of(server, **how)
            try:
                return await ask(model, query)
            finally:
                assert model.active == 0
                assert model._activity.waiting == 0
                await model.leave()

    return asyncio.run(run())


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
            (pieces,) = await ask(model_of(server), terms=terms)
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


def test_redirects_are_never_followed() -> None:
    async def run() -> None:
        with scripted(GOOD) as other, scripted() as server:
            step = says(head("307 Temporary Redirect", f"location: {other.url}/chat/completions"))
            server.steps = [step]
            with pytest.raises(RequestError, match=r"answered with a redirect \(307\)") as told:
                await ask(model_of(server, attempts=3))
            assert told.value.status == 502
            assert (len(server.asked), other.asked) == (1, [])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "error", "found", "message", "param"),
    [
        ("400 X", {"error": {"message": "no such field", "param": "top_q", "code": "bad"}}, 400,
         "far: no such field", "top_q"),
        ("422 X", {"detail": [1]}, 422, "far: refused with status 422", None),
        ("413 X", {"error": "too large"}, 413, "far: too large", None),
        ("418 X", {"message": "teapot " + SECRET}, 400, "far: teapot ***", None),
        ("429 X", {"error": {"message": "slow down"}}, 429, "far: slow down", None),
        ("401 X", {"error": {"message": f"wrong key {SECRET}"}}, 502,
         "the upstream far refused this server with status 401", None),
        ("404 X", {"error": {"message": "no model"}}, 502,
         "the upstream far refused this server with status 404", None),
        ("500 X", {"error": {"message": "their secrets"}}, 502,
         "the upstream far failed with status 500", None),
        ("503 X", {"error": {}}, 502, "the upstream far failed with status 503", None),
        ("204 X", {}, 502, "the upstream far refused this server with status 204", None),
    ],
)  # fmt: skip
def test_their_errors_as_ours(
    status: str, error: Any, found: int, message: str, param: str | None
) -> None:
    with pytest.raises(RequestError) as told:
        once(refusal(status, error))
    assert (told.value.status, str(told.value), told.value.param) == (found, message, param)
    assert SECRET not in str(told.value)


def test_what_is_tried_again_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def brief(seconds: float, *rest: Any) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("alpage.server.backends.fleet.asyncio.sleep", brief)
    fine = [refusal("503 X", {}), refusal("502 X", {}), GOOD]
    assert text(once(*fine, attempts=3)[0]) == "Hello"
    assert len(pauses) == 2 and 0.125 <= pauses[0] <= 0.25 <= pauses[1] <= 0.5
    pauses.clear()
    busy = refusal("429 X", {"error": {"message": "slow down"}}, "retry-after: 7")
    assert text(once(busy, GOOD, attempts=2)[0]) == "Hello"
    assert pauses == [7]
    pauses.clear()
    later = refusal("429 X", {"error": {"message": "slow down"}}, "retry-after: 600")
    with pytest.raises(RequestError) as told:  # too long to wait: the client decides
        once(later, GOOD, attempts=2)
    assert headers_of(told.value) == {"retry-after": "600"}
    once_only: list[tuple[Step, str]] = [
        (refusal("500 X", {}), "status 500"),
        (refusal("400 X", {"error": "odd"}), "odd"),
        (says(), "before it answered"),
        (says(head(), events(delta("a"), done=False)), "in the middle"),
    ]
    for step, message in once_only:
        with pytest.raises(RequestError, match=message):
            once(step, GOOD, attempts=3)
    assert pauses == []


def test_a_breaker_opens_and_closes() -> None:
    async def run() -> None:
        now = 0.0
        with scripted(refusal("500 X", {})) as server:
            model = model_of(server, failures=2, rest=10.0)
            endpoint = model.fleet.endpoints[0]
            endpoint.breaker = Breaker(2, 10.0, clock=lambda: now)
            for _ in range(2):
                with pytest.raises(RequestError, match="status 500"):
                    await ask(model)
            assert model.report()[0]["breaker"] == "open"
            now = 4.0
            with pytest.raises(RequestError, match="left alone for a while") as told:
                await ask(model)
            assert told.value.status == 503
            assert headers_of(told.value) == {"retry-after": "6"}
            assert len(server.asked) == 2  # nobody bothered it
            now = 10.0
            assert model.report()[0]["breaker"] == "half-open"
            with pytest.raises(RequestError, match="status 500"):
                await ask(model)  # the one that tries
            assert model.report()[0]["breaker"] == "open"
            now = 20.0
            server.steps = [server.until_left(head(), events(delta("a"), done=False))]
            async with model.prepare(HI).run(Terms()) as pieces:
                await anext(pieces)
                with pytest.raises(RequestError, match="left alone"):
                    await ask(model)  # one at a time
            # The client left it: that says nothing about the server.
            assert model.report()[0]["breaker"] == "half-open"
            server.steps = [GOOD]
            assert text((await ask(model))[0]) == "Hello"
            assert model.report()[0]["breaker"] == "closed"
            await model.leave()

    asyncio.run(run())


def test_a_fleet_behind_one_name() -> None:
    async def run() -> None:
        with scripted(GOOD) as one, scripted(GOOD) as two, scripted(refusal("503 X", {})) as bad:
            model = model_of(one, two)
            for _ in range(6):
                await ask(model)
            assert (len(one.asked), len(two.asked)) == (3, 3)
            one.steps = [one.until_left(head(), events(delta("a"), done=False))]
            model = model_of(one, two)
            async with model.prepare(HI).run(Terms()) as pieces:
                await anext(pieces)
                before = len(two.asked)
                for _ in range(3):
                    await ask(model)  # the less busy one
                assert len(two.asked) == before + 3
            model = model_of(bad, two, attempts=2, failures=2)
            for _ in range(6):
                assert text((await ask(model))[0]) == "Hello"
            assert len(bad.asked) == 2  # then it was left alone
            gone = Scripted(url="http://127.0.0.1:9/v1")
            assert text((await ask(model_of(gone, two, attempts=2)))[0]) == "Hello"
            with pytest.raises(RequestError, match="the upstream far cannot be reached"):
                await ask(model_of(gone))

    asyncio.run(run())


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


def test_usage_of_several_answers_adds_up() -> None:
    first = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}
    second = {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "length"}]}
    step = says(head(), events(first, second, USAGE))
    found = once(step, query=ChatQuery(messages=HI.messages, choices=2))
    usages = [pieces[-1].usage for pieces in found]
    assert [(u.prompt_tokens, u.completion_tokens) for u in usages if u] == [(7, 1), (0, 4)]
