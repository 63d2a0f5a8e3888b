"""A server under load: slow loads, adapters, tenants that flood, queues that end, slow readers."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.server.pool.callers import DoorByName
from tests.server.pool.offering import Loader, offer_of
from tests.server.serving import Serving, serving
from tests.weights.peft_files import lora_weights, write_adapter

from alpage import Llama
from alpage.core.errors import CapacityError
from alpage.core.settings import Settings
from alpage.engine.load import Scheduling
from alpage.engine.protocol import EmbedRequest, Request, StepBatch
from alpage.server.app import Surroundings
from alpage.server.backends.protocol import Terms
from alpage.server.offers import AdapterOffer
from alpage.server.pool import Pool
from alpage.server.process import Server, open_socket, url_of
from alpage.server.queries import ChatQuery, EmbedQuery, TextQuery
from alpage.server.running import Queue
from alpage.weights.source import open_model

SECONDS = 60
ENDLESS: dict[str, Any] = {
    "model": "smollm2",
    "prompt": "On and on",
    "max_tokens": 100_000,
    "logit_bias": {"0": -100, "1": -100, "2": -100},
    "context_policy": "shift",
}


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def client_of(running: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture
def closing() -> Iterator[Callable[[Pool], Pool]]:
    """Pools that are closed when the test, and with it their server, is over."""
    pools: list[Pool] = []

    def keep(pool: Pool) -> Pool:
        pools.append(pool)
        return pool

    yield keep
    for pool in pools:
        pool.close()


@pytest.mark.client("openai", "models: loaded when they are asked for")
def test_a_slow_load_beside_a_stream(smollm2_path: Path, closing: Callable[[Pool], Pool]) -> None:
    slow, quick = Loader(smollm2_path), Loader(smollm2_path)
    slow.gate.clear()
    pool = closing(Pool(offers=[offer_of("quick", quick, preload=True), offer_of("slow", slow)]))
    pool.preload()
    with serving(Surroundings(pool=pool, local=True)) as running, client_of(running) as client:
        assert [model.id for model in client.models.list()] == ["quick", "slow"]
        found: list[str] = []

        def ask() -> None:
            answer = client.completions.create(
                model="slow", prompt="One, two,", max_tokens=4, temperature=0
            )
            found.append(answer.choices[0].text)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert slow.begun.wait(SECONDS)
        stream = client.completions.create(
            model="quick", prompt="One, two,", max_tokens=40, temperature=0, stream=True
        )
        text = "".join(chunk.choices[0].text for chunk in stream)
        assert found == []  # a whole stream, while the other model loads
        slow.gate.set()
        for thread in threads:
            thread.join(SECONDS)
        assert found == [found[0]] * 2 and text.startswith(found[0])
        assert slow.loads == 1


@pytest.mark.client("openai", "models: adapters as models")
def test_adapters_are_models(
    smollm2_path: Path, closing: Callable[[Pool], Pool], tmp_path: Path
) -> None:
    loader = Loader(smollm2_path)
    with open_model(smollm2_path) as source:
        config = source.config
    folder = write_adapter(tmp_path / "legal", lora_weights(config), {})
    (tmp_path / "broken").mkdir()
    adapters = [
        AdapterOffer("legal", "base", folder, 1_700_000_000),
        AdapterOffer("broken", "base", tmp_path / "broken", 1_700_000_000),
    ]
    pool = closing(Pool(offers=[offer_of("base", loader)], adapters=adapters))
    with serving(Surroundings(pool=pool, local=True)) as running, client_of(running) as client:
        assert [model.id for model in client.models.list()] == ["base", "legal", "broken"]

        def answer(name: str) -> str:
            made = client.completions.create(
                model=name, prompt="The law says", max_tokens=12, temperature=0
            )
            assert made.model == name
            return made.choices[0].text

        base, legal = answer("base"), answer("legal")
        assert base != legal
        assert (answer("base"), answer("legal")) == (base, legal)
        assert loader.loads == 1  # one engine for both
        with pytest.raises(openai.InternalServerError, match="adapter broken cannot be loaded"):
            answer("broken")
        write_adapter(tmp_path / "broken", lora_weights(config, only="v_proj"),
                      {"target_modules": ["v_proj"]})  # fmt: skip
        assert answer("broken") not in (base, legal)  # repaired, and tried again
        assert loader.last is not None
        assert set(loader.last.adapters) == {"legal", "broken"}


def test_adapters_come_and_go(
    smollm2_path: Path, closing: Callable[[Pool], Pool], tmp_path: Path
) -> None:
    with open_model(smollm2_path) as source:
        folder = write_adapter(tmp_path / "legal", lora_weights(source.config), {})
    loader = Loader(smollm2_path)
    pool = closing(Pool(offers=[offer_of("base", loader)]))
    around = Surroundings(pool=pool, local=True, door=DoorByName())
    with serving(around) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        operator, other = {"x-tenant": "operator"}, {"x-tenant": "other"}
        body = {"name": "legal", "folder": str(folder), "base": "base"}

        def answer(name: str) -> httpx.Response:
            asked = {"model": name, "prompt": "The law says", "max_tokens": 8, "temperature": 0}
            return client.post("/v1/completions", json=asked, headers=other)

        assert client.post("/v1/adapters", json=body, headers=other).status_code == 403
        assert client.delete("/v1/adapters/legal", headers=other).status_code == 403
        assert answer("legal").status_code == 404
        for wrong, status in (
            (body | {"base": "none"}, 400),
            (body | {"name": "base"}, 400),
            (body | {"name": "a b"}, 400),
            (body | {"folder": "x\0"}, 400),
            (body | {"folder": str(tmp_path / "none")}, 503),
        ):
            told = client.post("/v1/adapters", json=wrong, headers=operator)
            assert told.status_code == status, told.text
            assert str(tmp_path) not in told.text
        made = client.post("/v1/adapters", json=body, headers=operator)
        assert made.json() == {"id": "legal", "object": "adapter", "parent": "base"}
        assert client.post("/v1/adapters", json=body, headers=operator).status_code == 400
        legal, base = answer("legal").json(), answer("base").json()
        assert legal["choices"][0]["text"] != base["choices"][0]["text"]
        gone = client.delete("/v1/adapters/legal", headers=operator)
        assert gone.json() == {"id": "legal", "object": "adapter", "deleted": True}
        assert answer("legal").status_code == 404
        assert client.delete("/v1/adapters/legal", headers=operator).status_code == 404
        assert loader.last is not None and loader.last.adapters == ()
        assert client.post("/v1/adapters", json=body, headers=operator).status_code == 200
        assert answer("legal").json()["choices"] == legal["choices"]
        assert loader.loads == 1


@pytest.fixture(scope="module")
def narrow(smollm2_path: Path) -> Iterator[Llama]:
    """A model with a cache for about six of the answers below, shared fairly."""
    scheduling = Scheduling(policy="fair")
    with Llama.load(
        smollm2_path, context=512, cache_tokens=1024, scheduling=scheduling, settings=Settings()
    ) as llm:
        yield llm


async def stream(
    client: httpx.AsyncClient, tenant: str, tokens: int, prompt: str
) -> AsyncIterator[None]:
    body = ENDLESS | {"prompt": prompt, "max_tokens": tokens, "stream": True, "seed": 1}
    del body["context_policy"]
    async with client.stream(
        "POST", "/v1/completions", json=body, headers={"x-tenant": tenant}
    ) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                yield


def tokens_of_flood_before_a_newcomer(llm: Llama, weights: dict[str, float]) -> int:
    """What a flooding tenant gets between a newcomer's request and its first token."""

    async def run(url: str) -> int:
        counted = 0
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:

            async def flood(number: int) -> None:
                nonlocal counted
                async for _ in stream(client, "flood", 80, f"{number} " * 80):
                    counted += 1

            flooding = [asyncio.create_task(flood(number)) for number in range(24)]
            while counted < 100:
                await asyncio.sleep(0.005)
            before = counted
            async for _ in stream(client, "newcomer", 3, "And I am"):
                break
            waited = counted - before
            assert sum(not task.done() for task in flooding) > 6  # some have not even begun
            for task in flooding:
                task.cancel()
            await asyncio.wait(flooding)
            return waited

    around = Surroundings(pool=Pool.of({"smollm2": llm}), local=True, door=DoorByName(weights))
    with serving(around) as running:
        return asyncio.run(run(running.url))


def test_a_flood_does_not_starve_a_newcomer(narrow: Llama) -> None:
    """The flood asks for 1,920 tokens; who comes last by order of arrival would wait for most."""
    # The next place that gets free is the newcomer's: when one of those under way, at most six
    # of 80 tokens each, has ended.
    assert tokens_of_flood_before_a_newcomer(narrow, {}) <= 6 * 80


def test_a_key_s_weight_and_priority_come_with_its_requests(
    llm: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float, int]] = []
    start = llm.engine.start

    def watched(request: Request | EmbedRequest, on_event: Any) -> Any:
        seen.append((request.tenant, request.weight, request.priority))
        return start(request, on_event)

    monkeypatch.setattr(llm.engine, "start", watched)
    terms = Terms(tenant="a", weight=2.5, priority=3)
    (model,) = Pool.of({"smollm2": llm})

    async def run() -> None:
        queries: list[ChatQuery | TextQuery] = [
            TextQuery(prompts=["Hi"], options={"max_tokens": 1}),
            ChatQuery(messages=[{"role": "user", "content": "Hi"}], options={"max_tokens": 1}),
        ]
        for query in queries:
            async with model.prepare(query).run(terms) as pieces:
                assert [piece async for piece in pieces]
        vectors = await model.prepare_embedding(EmbedQuery(inputs=["Hi", "Ho"])).run(terms)
        assert vectors.shape == (2, 576)

    asyncio.run(run())
    assert seen == [("a", 2.5, 3)] * 4


def test_nothing_is_revealed_across_tenants(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    runner: Any = llm.engine.runner
    forward = runner.forward

    def counted(batch: StepBatch) -> Any:
        rows.append(len(batch.tokens))
        return forward(batch)

    monkeypatch.setattr(runner, "forward", counted)
    secret = "The secret of the three " + "long and winding " * 20 + "roads is"
    around = Surroundings(pool=Pool.of({"smollm2": llm}), local=True, door=DoorByName())
    with serving(around) as running:

        def ask(tenant: str) -> tuple[int, int]:
            """Cached tokens as told, and rows that the engine ran."""
            rows.clear()
            answer = httpx.post(
                f"{running.url}/v1/completions",
                json={"model": "smollm2", "prompt": secret, "max_tokens": 1},
                headers={"x-tenant": tenant},
                timeout=60,
            )
            usage = answer.json()["usage"]
            return usage["prompt_tokens_details"]["cached_tokens"], sum(rows)

        cold = ask("one")
        assert cold[0] == 0 and cold[1] > 60
        assert ask("two") == cold  # what the other has said changes nothing
        again = ask("one")
        assert again[0] > 0 and again[1] == cold[1] - again[0]


@pytest.fixture
def short(narrow: Llama) -> Iterator[tuple[Pool, Serving]]:
    """A server whose model lets few wait."""
    pool = Pool.of({"smollm2": narrow}, queue=Queue(requests=4, tokens=2000))
    with serving(Surroundings(pool=pool, local=True)) as running:
        yield pool, running


def test_a_queue_has_an_end(short: tuple[Pool, Serving]) -> None:
    pool, running = short
    (model,) = pool
    activity: Any = model._activity  # type: ignore[attr-defined]
    with client_of(running) as client:
        fill: Any = {k: v for k, v in ENDLESS.items() if k != "context_policy"}
        fill["extra_body"] = {"context_policy": "shift"}
        # Each takes the whole cache in the end: others wait.
        streams = []
        for number in range(2):
            prompt = f"{number} " + "again and " * 240
            streams.append(client.completions.create(**fill | {"prompt": prompt}, stream=True))
        for one in streams:
            next(iter(one))
        waiting = [
            threading.Thread(
                target=lambda: client.completions.create(
                    model="smollm2", prompt="word " * 450, max_tokens=1
                )
            )
            for _ in range(4)
        ]
        for thread in waiting:
            thread.start()
        until(lambda: activity.waiting == 4)
        assert activity.waiting_tokens > 1800
        with pytest.raises(openai.InternalServerError, match="too many requests wait") as told:
            client.completions.create(model="smollm2", prompt="Hi", max_tokens=1)
        assert (told.value.status_code, told.value.code) == (503, "queue_full")
        assert 1 <= int(told.value.response.headers["retry-after"]) <= 60
        for one in streams:  # there is room again
            one.close()
        for thread in waiting:
            thread.join(SECONDS)
        until(lambda: activity.waiting == 0)
        assert activity.waiting_tokens == 0
        client.completions.create(model="smollm2", prompt="Hi", max_tokens=1)


def test_a_long_prompt_fits_an_empty_queue_alone(llm: Llama) -> None:
    pool = Pool.of({"smollm2": llm}, queue=Queue(requests=1, tokens=10))
    with (
        serving(Surroundings(pool=pool, local=True)) as running,
        client_of(running) as client,
    ):
        answer = client.completions.create(model="smollm2", prompt="word " * 100, max_tokens=1)
        assert answer.usage is not None and answer.usage.prompt_tokens > 50


def test_an_answer_that_nobody_reads_ends(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alpage.server.running._MOST_UNREAD", 20)
    monkeypatch.setattr("alpage.server.running._MOST_UNREAD_OF_EACH", 1)
    pool = Pool.of({"smollm2": llm})

    async def run() -> int:
        (model,) = pool
        options: Any = {k: v for k, v in ENDLESS.items() if k not in ("model", "prompt")}
        options["logit_bias"] = {int(k): v for k, v in options["logit_bias"].items()}
        prepared = model.prepare(TextQuery(prompts=["On"], options=options))
        async with prepared.run(Terms()) as pieces:
            await anext(pieces)
            while model.active:  # the engine goes on without waiting, and is told to stop
                await asyncio.sleep(0.005)
            count = 1
            with pytest.raises(CapacityError, match="nobody has read the last 20 pieces"):
                async for _ in pieces:
                    count += 1
            return count

    assert asyncio.run(run()) == 21


def test_a_client_that_reads_nothing_is_cut_off(llm: Llama) -> None:
    """Small buffers on both sides, so that they are full soon."""
    pool = Pool.of({"smollm2": llm})
    (model,) = pool
    around = Surroundings(pool=pool, local=True, stall=0.3)
    started = threading.Event()
    with open_socket("127.0.0.1", 0) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        server = Server(around, on_start=started.set)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            assert started.wait(SECONDS)
            address = sock.getsockname()
            with socket.socket() as idle:
                idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                idle.connect(address)
                body = json.dumps(ENDLESS | {"stream": True, "logprobs": 20, "n": 4}).encode()
                idle.sendall(
                    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                    b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )
                until(lambda: model.active == 4)
                # Others are served while it does not read.
                url = url_of(sock, "127.0.0.1")
                ask = {"model": "smollm2", "prompt": "Hi", "max_tokens": 3}
                assert httpx.post(f"{url}/v1/completions", json=ask, timeout=60).is_success
                until(lambda: model.active == 0)
                until(lambda: around.life.under_way == 0)
        finally:
            server.should_exit = True
            thread.join(SECONDS)
