"""Many clients at once, clients that leave, and an end that tells everyone."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.server.serving import Serving, serving

from alpage import Llama
from alpage.core.settings import Settings
from alpage.server.app import Surroundings
from alpage.server.pool import Pool

QUESTIONS = [f"Tell me about the number {number}." for number in range(8)]
# An answer that goes on for thousands of tokens: the model may not end it.
ENDLESS: dict[str, Any] = {
    "model": "smollm2",
    "prompt": "On and on",
    "max_tokens": 100_000,
    "logit_bias": {"0": -100, "1": -100, "2": -100},
    "context_policy": "shift",
}


def test_eight_clients_get_what_they_get_alone(client: openai.OpenAI) -> None:
    def ask(question: str) -> str:
        answer = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=16,
        )
        return str(answer.choices[0].message.content)

    alone = [ask(question) for question in QUESTIONS]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, QUESTIONS)) == alone


def wait_for(models: Pool, active: int) -> None:
    (served,) = models
    deadline = time.monotonic() + 30
    while served.active != active and time.monotonic() < deadline:
        time.sleep(0.005)
    assert served.active == active


def test_leaving_a_stream_frees_the_engine(
    url: str, models: Pool, idle: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    with httpx.stream("POST", f"{url}/v1/completions", json=ENDLESS | {"stream": True, "n": 3},
                      timeout=60) as answer:  # fmt: skip
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")
        wait_for(models, 3)
        assert httpx.get(f"{url}/health").json()["models"][0]["active_requests"] == 3
    idle()
    assert httpx.get(f"{url}/health").status_code == 200
    assert caplog.text == ""  # clients leave: that is nothing for the log


def test_leaving_a_whole_answer_frees_the_engine(
    url: str, models: Pool, idle: Callable[[], None]
) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient() as client:
            asked = asyncio.create_task(client.post(f"{url}/v1/completions", json=ENDLESS))
            await asyncio.to_thread(wait_for, models, 1)
            asked.cancel()

    asyncio.run(leave())
    idle()


def test_others_are_served_while_long_prompts_are_read(
    client: openai.OpenAI, url: str, llm: Llama
) -> None:
    """The event loop is never held up: it answers while many megabytes are read and refused."""
    text = "".join(f"{number} words, " for number in range(600_000))
    answered = threading.Event()

    def refuse() -> None:
        for _ in range(8):  # one is soon refused
            with pytest.raises(openai.BadRequestError, match="the context holds 512"):
                client.completions.create(model="smollm2", prompt=text, max_tokens=1)
        answered.set()

    thread = threading.Thread(target=refuse)
    thread.start()
    asked = 0
    with httpx.Client(timeout=30) as other:
        while not answered.is_set():
            asked += other.get(f"{url}/health").status_code == 200
            time.sleep(0.01)
    thread.join()
    assert asked >= 3


@pytest.fixture
def ending(llm: Llama) -> Iterator[tuple[Pool, Serving]]:
    """A server of its own that gives answers under way a moment only."""
    pool = Pool.of({"smollm2": llm})
    with serving(Surroundings(pool=pool, local=True, grace=0.2)) as running:
        yield pool, running


def test_the_end_tells_everyone(ending: tuple[Pool, Serving]) -> None:
    models, running = ending
    with (
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        endless: Any = {k: v for k, v in ENDLESS.items() if k != "context_policy"}
        endless["extra_body"] = {"context_policy": "shift"}
        stream = client.completions.create(**endless, stream=True)
        next(iter(stream))
        whole = pool.submit(lambda: client.completions.create(**endless))
        wait_for(models, 2)
        running.server.should_exit = True
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        with pytest.raises(openai.InternalServerError, match="shutting down") as caught:
            whole.result()
        assert caught.value.status_code == 503


def test_two_models(llm: Llama, smollm2_path: Path) -> None:
    with Llama.load(smollm2_path, context=256, settings=Settings()) as second:
        pool = Pool.of({"first": llm, "second": second})
        with (
            serving(Surroundings(pool=pool, local=True), "localhost") as running,
            openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
        ):
            assert [model.id for model in client.models.list()] == ["first", "second"]
            answers = [
                client.completions.create(
                    model=name, prompt="One, two,", max_tokens=5, temperature=0
                )
                for name in ("first", "second")
            ]
            assert answers[0].choices[0].text == answers[1].choices[0].text
            assert [answer.model for answer in answers] == ["first", "second"]
