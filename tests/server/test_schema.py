"""The server's own schema, taken at its word: random requests of it never meet a bug.

`schemathesis` makes them, valid and invalid ones, for every route that /openapi.json tells of.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from tests.server.serving import serving

from alpage import Llama
from alpage.core.settings import Settings
from alpage.server.app import Surroundings
from alpage.server.pool import Pool

EXAMPLES = 30
"""Of each route."""


@pytest.fixture(scope="module")
def url(smollm2_path: Path, alpage_home: Path) -> Iterator[str]:
    """A small context and a short time: a valid request may ask for as much as it likes."""
    with Llama.load(smollm2_path, context=64, settings=Settings()) as llm:
        pool = Pool.of({"smollm2": llm})
        around = Surroundings(pool=pool, local=True, timeout=0.2, home=alpage_home)
        with serving(around) as running:
            yield running.url


def test_no_request_meets_a_bug(url: str) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", timeout=30)
    found: list[Any] = list(schema.get_all_operations())
    operations = [result.ok() for result in found]
    assert {"/v1/chat/completions", "/v1/models", "/health"} <= {o.path for o in operations}
    for operation in operations:
        _throw_at(operation)


def _throw_at(operation: Any) -> None:
    valid, invalid = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)

    @given(valid | invalid)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def one_request(case: Any) -> None:
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "smollm2"  # a random name would be told 404 and nothing else
        response = case.call(timeout=60)
        assert response.status_code < 500 or response.status_code == 503, response.text

    one_request()
