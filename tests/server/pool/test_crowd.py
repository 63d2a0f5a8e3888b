"""Many answers at once: several tokens in one event, and nothing else of an answer changes."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.server.serving import serving

from alpage import Llama
from alpage.llama import AnswerOptions, Piece
from alpage.server.app import Surroundings
from alpage.server.backends.local import LocalModel
from alpage.server.backends.protocol import Terms
from alpage.server.observe.metrics import Metrics
from alpage.server.observe.observer import Observers
from alpage.server.pool import Pool
from alpage.server.queries import TextQuery
from alpage.server.running import Activity, Bridge

httpx = pytest.importorskip("httpx")
PROMPTS = ["The sea", "A mountain", "One day", "My cat"]
TOKENS = 24
OPTIONS: AnswerOptions = {
    "max_tokens": TOKENS, "temperature": 0.9, "seed": 7, "ignore_eos": True,
}  # fmt: skip


def answers(llm: Llama, crowd: int, logprobs: int | None = None) -> list[list[Piece]]:
    """The pieces of one answer to each of `PROMPTS`, asked for together."""
    model = LocalModel("smollm2", llm, activity=Activity(crowd=crowd))
    options: AnswerOptions = {**OPTIONS, "top_logprobs": logprobs}

    async def ask(prompt: str) -> list[Piece]:
        prepared = model.prepare(TextQuery(prompts=[prompt], options=options))
        async with prepared.run(Terms()) as pieces:
            return [piece async for _, piece in pieces]

    async def all_of_them() -> list[list[Piece]]:
        return list(await asyncio.gather(*(ask(prompt) for prompt in PROMPTS)))

    return asyncio.run(all_of_them())


def texts(found: list[list[Piece]]) -> list[str]:
    return ["".join(piece.text for piece in pieces) for pieces in found]


def test_a_crowd_s_answers_come_in_fewer_pieces_and_are_the_same(llm: Llama) -> None:
    alone, crowded = answers(llm, 0), answers(llm, 2)
    assert texts(alone) == texts(crowded)
    for pieces in alone:
        assert [len(piece.tokens) for piece in pieces] == [1] * TOKENS + [0]
    for one, other in zip(alone, crowded, strict=True):
        assert sum((p.tokens for p in one), ()) == sum((p.tokens for p in other), ())
        assert len(other[0].tokens) == 1, "the first token waits for nobody"
        assert other[-1].finish_reason == "length" and other[-1].usage is not None
        assert not any(piece.finish_reason for piece in other[:-1])
    assert sum(map(len, crowded)) < 0.75 * sum(map(len, alone))


def test_joined_pieces_keep_every_logprob(llm: Llama) -> None:
    for one, other in zip(answers(llm, 0, logprobs=2), answers(llm, 2, logprobs=2), strict=True):
        entries = [[e for piece in pieces for e in piece.logprobs or ()] for pieces in (one, other)]
        assert len(entries[0]) == TOKENS
        assert [e.id for e in entries[0]] == [e.id for e in entries[1]]
        assert [e.text for e in entries[0]] == [e.text for e in entries[1]]


def test_answers_of_one_request_are_told_apart(llm: Llama) -> None:
    """Several answers of one call, which come in turns: each stays its own."""
    found = {}
    for crowd in (0, 2):
        model = LocalModel("smollm2", llm, activity=Activity(crowd=crowd))

        async def ask(model: LocalModel = model) -> dict[int, str]:
            query = TextQuery(prompts=PROMPTS, options=OPTIONS)
            own = dict.fromkeys(range(len(PROMPTS)), "")
            async with model.prepare(query).run(Terms()) as pieces:
                async for index, piece in pieces:
                    own[index] += piece.text
            return own

        found[crowd] = asyncio.run(ask())
    assert found[0] == found[2]


def test_what_waits_too_long_goes_on_without_what_follows() -> None:
    async def run() -> float:
        bridge, released = Bridge(asyncio.get_running_loop()), asyncio.Event()
        began = time.monotonic()
        bridge.hold(began, released.set)
        while not released.is_set():
            bridge.call(lambda: None)  # the engine says something to somebody else
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    assert 0.2 <= asyncio.run(run()) < 5


@pytest.fixture(scope="module")
def crowded(llm: Llama) -> Iterator[tuple[str, Metrics]]:
    pool = Pool({"smollm2": LocalModel("smollm2", llm, activity=Activity(crowd=2))})
    metrics = Metrics(pool.names, lambda: {"smollm2": llm.engine.stats})
    around = Surroundings(pool=pool, local=True, metrics=metrics, observers=Observers(metrics))
    with serving(around) as running:
        yield running.url, metrics


CHAT = {"messages": [{"role": "user", "content": "Tell me of the sea."}], "temperature": 0}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "The sea", "max_tokens": TOKENS, "temperature": 0}),
        ("/v1/chat/completions", {**CHAT, "max_tokens": TOKENS}),
        ("/v1/responses", {"input": "The sea", "max_output_tokens": TOKENS, "temperature": 0}),
        ("/v1/messages", {**CHAT, "max_tokens": TOKENS}),
        ("/api/generate", {"prompt": "Sea", "options": {"num_predict": TOKENS, "temperature": 0}}),
    ],
)
def test_every_dialect_writes_fewer_events(
    crowded: tuple[str, Metrics], path: str, body: dict[str, Any]
) -> None:
    """Four at once over HTTP: the same text as one alone, in fewer events."""
    url, metrics = crowded
    body = {"model": "smollm2", "stream": True, **body}

    async def ask(client: Any) -> list[str]:
        async with client.stream("POST", f"{url}{path}", json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            return [text async for line in answer.aiter_lines() if (text := _text(line))]

    async def run(count: int) -> list[list[str]]:
        async with httpx.AsyncClient(timeout=120) as client:
            return list(await asyncio.gather(*(ask(client) for _ in range(count))))

    (alone,) = asyncio.run(run(1))
    before = _count(metrics)
    crowd = asyncio.run(run(4))
    assert {"".join(events) for events in crowd} == {"".join(alone)}
    assert min(map(len, crowd)) < len(alone)
    assert _count(metrics) - before == 4 * (len(alone) - 1), "each token is in the metrics"


def _count(metrics: Metrics) -> float:
    """Times between tokens that the metrics have."""
    found = metrics.registry.get_sample_value(
        "alpage_inter_token_seconds_count", {"model": "smollm2"}
    )
    return found or 0.0


def _text(line: str) -> str:
    """The text in an event's line of any dialect."""
    if not line.startswith(("data: {", "{")):
        return ""
    value = json.loads(line.removeprefix("data: "))
    if value.get("type", "").startswith("response.") and not value["type"].endswith("text.delta"):
        return ""
    for choice in value.get("choices", ()):
        return str(choice.get("text") or choice.get("delta", {}).get("content") or "")
    text = value.get("response") or value.get("delta") or ""
    return text if isinstance(text, str) else str(text.get("text") or "")
