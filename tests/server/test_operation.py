"""What an operator sees of a server that is put together as `alpage serve` does it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.server.serving import serving

from alpage.core.errors import UsageError
from alpage.core.settings import Settings
from alpage.server.config import Config, ModelConfig, ServerConfig
from alpage.server.operation import accounts_of, operated
from alpage.server.stock import pool_of

SECRET_WORDS = "the blue cow of the high pasture"


@pytest.fixture
def served(smollm2_path: Path, tmp_path: Path) -> Iterator[tuple[str, Path, Any]]:
    """Its address, its log, and its accounts."""
    log = tmp_path / "server.log"
    database = f"sqlite:///{tmp_path / 'accounts.db'}"
    model = str(smollm2_path)
    config = Config(
        server=ServerConfig(log=log, database=database),
        models=(ModelConfig(model=model, name="small", context=512, preload=False),),
    )
    settings = Settings(home=tmp_path)
    with ExitStack() as stack:
        accounts = stack.enter_context(accounts_of(config, settings))
        pool = pool_of(config, {model: smollm2_path}, tmp_path, settings)
        stack.callback(pool.close)
        around = stack.enter_context(operated(config, pool, accounts))
        running = stack.enter_context(serving(around))
        yield running.url, log, accounts


def test_metrics_and_log_tell_what_happened(served: tuple[str, Path, Any]) -> None:
    url, log, accounts = served
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": SECRET_WORDS}],
        "max_tokens": 5,
        "stream": True,
    }
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200
    assert httpx.post(f"{url}/v1/chat/completions", json={**body, "model": "x"}).status_code == 404
    _, secret = accounts.create_key("ops", scopes=["metrics"])
    assert httpx.get(f"{url}/metrics").status_code == 401
    shown = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {secret}"})
    found = {
        (sample.name, sample.labels.get("model")): sample.value
        for family in text_string_to_metric_families(shown.text)
        for sample in family.samples
    }
    assert found["alpage_time_to_first_token_seconds_count", "small"] == 1
    assert found["alpage_inter_token_seconds_count", "small"] >= 3
    assert found["alpage_completion_tokens_total", "small"] == 5
    assert found["alpage_model_load_seconds_count", "small"] == 1
    assert found["alpage_engine_up", "small"] == 1
    assert not any(model == "x" for _, model in found)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "model_loaded" in [line["event"] for line in lines]
    requests = [line for line in lines if line["event"] == "request"]
    assert requests[0]["id"] == answer.headers["x-request-id"]
    assert requests[0]["completion_tokens"] == 5
    assert requests[0]["endpoint"] == "/v1/chat/completions"
    assert SECRET_WORDS not in log.read_text()


def test_an_address_that_others_reach_needs_a_key(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'accounts.db'}"
    config = Config(server=ServerConfig(host="0.0.0.0", database=database))
    settings = Settings(home=tmp_path)
    with (
        pytest.raises(UsageError, match="alpage keys create"),
        accounts_of(config, settings),
    ):
        pass
    loopback = Config(server=ServerConfig(database=database))
    with accounts_of(loopback, settings) as accounts:
        assert accounts is not None
        accounts.create_key("first")
    with accounts_of(config, settings) as accounts:
        assert accounts is not None and accounts.has_keys
    without = Config(server=ServerConfig(host="0.0.0.0", database="none"))
    with pytest.raises(UsageError, match="no key"), accounts_of(without, settings):
        pass


def test_prompts_need_a_place_to_go(tmp_path: Path) -> None:
    config = Config(server=ServerConfig(log_prompts=True))
    pool = pool_of(config, {}, tmp_path, Settings(home=tmp_path))
    with pytest.raises(UsageError, match="log or traces"), operated(config, pool, None):
        pass
