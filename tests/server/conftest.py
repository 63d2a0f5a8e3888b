"""A real server on a free port, with the default model; judged through the real openai client."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from alpage import Llama
from alpage.core.settings import Settings
from alpage.server.process import Server, open_socket, url_of
from alpage.server.served import ServedModels


@pytest.fixture(scope="session")
def llm(smollm2_path: Path) -> Iterator[Llama]:
    with Llama.load(smollm2_path, context=512, settings=Settings()) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def models(llm: Llama) -> ServedModels:
    return ServedModels({"smollm2": llm})


@pytest.fixture(scope="session")
def url(models: ServedModels) -> Iterator[str]:
    started = threading.Event()
    with open_socket("127.0.0.1", 0) as sock:
        server = Server(models, host="127.0.0.1", on_start=started.set)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        assert started.wait(60)
        yield url_of(sock, "127.0.0.1")
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture
def idle(models: ServedModels) -> Callable[[], None]:
    """Wait until the engine has nothing of ours to do, or fail."""

    def wait() -> None:
        (served,) = models
        deadline = time.monotonic() + 30
        while served.active and time.monotonic() < deadline:
            time.sleep(0.01)
        assert served.active == 0, f"{served.active} requests are still running"

    return wait
