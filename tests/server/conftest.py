"""A real server on a free port, with the default model; judged through the real openai client."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from tests.server.serving import serving

from alpage import Llama
from alpage.core.settings import Settings
from alpage.server.app import Surroundings
from alpage.server.pool import Pool


@pytest.fixture(scope="session")
def llm(smollm2_path: Path) -> Iterator[Llama]:
    with Llama.load(smollm2_path, context=512, settings=Settings()) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def models(llm: Llama) -> Pool:
    return Pool.of({"smollm2": llm})


@pytest.fixture(scope="session")
def url(models: Pool) -> Iterator[str]:
    with serving(Surroundings(pool=models, local=True)) as running:
        yield running.url


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture
def idle(models: Pool) -> Callable[[], None]:
    """Wait until the engine has nothing of ours to do, or fail."""

    def wait() -> None:
        (served,) = models
        deadline = time.monotonic() + 30
        while served.active and time.monotonic() < deadline:
            time.sleep(0.01)
        assert served.active == 0, f"{served.active} requests are still running"

    return wait
