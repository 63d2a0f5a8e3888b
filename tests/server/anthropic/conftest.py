"""The real anthropic client, at the server of `tests/server/conftest.py`."""

from collections.abc import Iterator

import anthropic
import pytest


@pytest.fixture(scope="session")
def claude(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120) as made:
        yield made
