"""Keys, scopes and quotas over HTTP, and records of usage that no end of the server loses."""

import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.server.serving import serving

from alpage import Llama
from alpage.server.accounts import Accounts, Limits
from alpage.server.app import Surroundings
from alpage.server.door import KeyDoor
from alpage.server.pool import Pool

HELLO: Any = {"model": "smollm2", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True)
class Guarded:
    """A server with accounts."""

    url: str
    accounts: Accounts

    def client(self, secret: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=secret, max_retries=0)


@pytest.fixture
def guarded(llm: Llama, tmp_path: Path) -> Iterator[Guarded]:
    with Accounts(f"sqlite:///{tmp_path / 'accounts.db'}") as accounts:
        pool = Pool.of({"smollm2": llm, "other": llm})
        around = Surroundings(pool=pool, local=True, door=KeyDoor(accounts))
        with serving(around) as running:
            yield Guarded(running.url, accounts)


def test_without_keys_everyone_may(guarded: Guarded) -> None:
    answer = guarded.client("anything").chat.completions.create(**HELLO, max_tokens=4)
    assert answer.usage is not None and answer.usage.completion_tokens == 4
    (record,) = guarded.accounts.usage.records()
    assert (record.key, record.model, record.status) == (None, "smollm2", 200)
    assert record.endpoint == "/v1/chat/completions"
    assert record.completion_tokens == 4
    assert record.prompt_tokens == answer.usage.prompt_tokens
    assert record.finish_reason == "length"


def test_a_key_is_asked_for_as_soon_as_there_is_one(guarded: Guarded) -> None:
    key, secret = guarded.accounts.create_key("first")
    for wrong in ("alp_wrong", secret[:-1], secret + "x"):
        with pytest.raises(openai.AuthenticationError) as refused:
            guarded.client(wrong).chat.completions.create(**HELLO)
        assert refused.value.code == "invalid_api_key"
    assert httpx.get(f"{guarded.url}/v1/models").status_code == 401
    health = httpx.get(f"{guarded.url}/health")
    assert health.status_code == 200 and health.json()["models"] == []
    shown = httpx.get(f"{guarded.url}/health", headers={"authorization": f"Bearer {secret}"})
    assert [model["id"] for model in shown.json()["models"]] == ["smollm2", "other"]
    answered = httpx.post(
        f"{guarded.url}/v1/chat/completions",
        json={**HELLO, "max_tokens": 2},
        headers={"x-api-key": secret},
    )
    assert answered.status_code == 200
    guarded.accounts.revoke_key(key.id)
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        guarded.client(secret).chat.completions.create(**HELLO)


def test_scopes_and_models(guarded: Guarded) -> None:
    _, watcher = guarded.accounts.create_key("watcher", scopes=["metrics"])
    with pytest.raises(openai.PermissionDeniedError, match="scope inference"):
        guarded.client(watcher).models.list()
    _, secret = guarded.accounts.create_key("one model", models=["other"])
    client = guarded.client(secret)
    assert [model.id for model in client.models.list()] == ["other"]
    with pytest.raises(openai.NotFoundError, match="this server has: other"):
        client.chat.completions.create(**HELLO)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("smollm2")


def test_requests_a_minute(guarded: Guarded) -> None:
    _, secret = guarded.accounts.create_key("slow", limits=Limits(requests_per_minute=3))
    client = guarded.client(secret)
    for _ in range(3):
        client.chat.completions.create(**HELLO, max_tokens=1)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**HELLO, max_tokens=1)
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
    assert refused.value.code == "rate_limit_exceeded"


def test_quotas_are_exact_when_many_ask_at_once(guarded: Guarded) -> None:
    _, secret = guarded.accounts.create_key("many", limits=Limits(requests_per_minute=5))
    start = threading.Barrier(12)

    def ask(_: int) -> int:
        with guarded.client(secret) as client:
            start.wait()
            try:
                client.chat.completions.create(**HELLO, max_tokens=2)
            except openai.RateLimitError:
                return 429
            return 200

    with ThreadPoolExecutor(12) as threads:
        statuses = list(threads.map(ask, range(12)))
    assert sorted(statuses) == [200] * 5 + [429] * 7


def test_an_answer_fits_the_tokens_that_are_left(guarded: Guarded) -> None:
    _, secret = guarded.accounts.create_key("few", limits=Limits(tokens_per_day=100))
    client = guarded.client(secret)
    answer = client.chat.completions.create(**HELLO)  # no max_tokens: the day's rest is the bound
    assert answer.usage is not None
    assert answer.usage.total_tokens <= 100
    with pytest.raises(openai.RateLimitError, match="tokens a day"):
        client.chat.completions.create(**HELLO, max_tokens=100)
    assert sum(guarded.accounts.usage.tokens_of(_today()).values()) == answer.usage.total_tokens


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def test_who_leaves_pays_for_what_ran(guarded: Guarded) -> None:
    key, secret = guarded.accounts.create_key("leaver", limits=Limits(concurrent=1))
    client = guarded.client(secret)
    stream = client.chat.completions.create(**HELLO, max_tokens=400, stream=True)
    for _, _chunk in zip(range(5), stream, strict=False):
        pass
    stream.close()
    deadline = time.monotonic() + 30
    while not list(guarded.accounts.usage.records()) and time.monotonic() < deadline:
        time.sleep(0.02)
    (record,) = guarded.accounts.usage.records()
    assert record.key == key.id
    assert record.prompt_tokens > 0 and 3 <= record.completion_tokens < 400
    client.chat.completions.create(**HELLO, max_tokens=1)  # its place is free again


def test_no_record_is_lost_when_the_server_is_killed(smollm2_path: Path, tmp_path: Path) -> None:
    """Whoever has seen the end of an answer has a record of it on the disk."""
    database = f"sqlite:///{tmp_path / 'accounts.db'}"
    code = "import sys; from alpage.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", str(smollm2_path), "--port", "0", "--json"]
    command += ["--context", "512", "--database", database]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        started = json.loads(server.stdout.readline())
        ended: list[str] = []
        asking = [
            threading.Thread(target=_ask_until_the_end, args=(started, ended)) for _ in range(4)
        ]
        for thread in asking:
            thread.start()
        deadline = time.monotonic() + 60
        while len(ended) < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    for thread in asking:
        thread.join(30)
    assert len(ended) >= 12
    with Accounts(database) as accounts:
        written = {record.call for record in accounts.usage.records()}
    assert set(ended) <= written


def _ask_until_the_end(started: dict[str, Any], ended: list[str]) -> None:
    body = {**HELLO, "model": started["models"][0], "max_tokens": 3, "stream": True}
    with httpx.Client(base_url=started["url"], timeout=30) as client:
        while True:
            try:
                with client.stream("POST", "/v1/chat/completions", json=body) as response:
                    lines = list(response.iter_lines())
            except httpx.HTTPError:
                return  # it has been killed
            if "data: [DONE]" in lines:
                ended.append(response.headers["x-request-id"])
