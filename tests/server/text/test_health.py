"""Whether the server is up, and whether it can answer."""

import httpx
from tests.server.serving import serving

from alpage import __version__
from alpage.server.app import Surroundings
from alpage.server.pool import Pool


def test_a_server_with_a_model_is_ready(url: str) -> None:
    health = httpx.get(f"{url}/health")
    assert health.status_code == 200
    assert health.json()["version"] == __version__
    ready = httpx.get(f"{url}/ready")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "loaded": ["smollm2"], "offered": 1}


def test_a_server_without_a_model_is_not() -> None:
    with serving(Surroundings(pool=Pool({}), local=True)) as running:
        assert httpx.get(f"{running.url}/health").status_code == 200
        ready = httpx.get(f"{running.url}/ready")
        assert ready.status_code == 503
        assert ready.json() == {"status": "not ready", "missing": ["no model is offered"]}
