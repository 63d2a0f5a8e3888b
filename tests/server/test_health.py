"""Whether the server is up, and whether it can answer."""

from pathlib import Path

import httpx
from tests.server.serving import serving

from alpage import Llama, __version__
from alpage.core.settings import Settings
from alpage.server.app import Surroundings
from alpage.server.pool import Pool


def test_a_server_with_a_model_is_ready(url: str) -> None:
    health = httpx.get(f"{url}/health")
    assert health.status_code == 200
    assert health.json()["version"] == __version__
    ready = httpx.get(f"{url}/ready")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready"}


def test_a_server_without_a_model_is_not() -> None:
    with serving(Surroundings(pool=Pool({}), local=True)) as running:
        assert httpx.get(f"{running.url}/health").status_code == 200
        ready = httpx.get(f"{running.url}/ready")
        assert ready.status_code == 503
        assert ready.json() == {"status": "empty", "missing": "a model to offer"}


def test_a_model_that_has_died_is_told(llm: Llama, smollm2_path: Path) -> None:
    other = Llama.load(smollm2_path, context=64, settings=Settings())
    pool = Pool.of({"one": other, "two": llm})
    with serving(Surroundings(pool=pool, local=True)) as running:
        assert httpx.get(f"{running.url}/health").status_code == 200
        other.engine.close()
        health = httpx.get(f"{running.url}/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        assert health.json()["dead"] == ["one"]
        ready = httpx.get(f"{running.url}/ready")  # the other one answers
        assert ready.status_code == 200
    with serving(Surroundings(pool=Pool.of({"one": other}), local=True)) as running:
        ready = httpx.get(f"{running.url}/ready")
        assert ready.status_code == 503
        assert ready.json()["missing"] == "an engine that lives"
    other.close()
