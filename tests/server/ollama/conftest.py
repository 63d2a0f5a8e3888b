"""The real ollama client, in front of the same server as the other dialects' tests."""

from collections.abc import Iterator

import ollama
import pytest


@pytest.fixture(scope="session")
def asking(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url, timeout=120) as made:
        yield made
