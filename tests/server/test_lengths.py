"""Texts that no context holds are refused after a part of them has been encoded."""

from typing import Any

import httpx
import pytest

from alpage import Llama
from alpage.server.backends.lengths import check_texts
from alpage.server.errors import RequestError
from alpage.server.queries import ChatQuery, EmbedQuery, TextQuery

HOSTILE = ["a" * 2_000_000, "é~" * 500_000, "\x00" * 1_000_000, "word " * 400_000]


class Counting:
    """A model that counts the characters which it is asked to encode."""

    def __init__(self, llm: Llama) -> None:
        self._llm = llm
        self.context = llm.context
        self.characters = 0

    def tokenize(self, text: str) -> list[int]:
        self.characters += len(text)
        return self._llm.tokenize(text)


@pytest.mark.parametrize("text", HOSTILE, ids=["letters", "marks", "zeros", "words"])
@pytest.mark.parametrize("kind", ["chat", "parts", "text", "embed"])
def test_a_small_part_is_encoded(llm: Llama, text: str, kind: str) -> None:
    part: Any = [{"type": "text", "text": text}] if kind == "parts" else text
    queries: Any = {
        "text": TextQuery(prompts=[[1, 2], "short", text]),
        "embed": EmbedQuery(inputs=["short", text]),
    }
    query = queries.get(kind) or ChatQuery(messages=[{"role": "user", "content": part}])
    counting: Any = Counting(llm)
    with pytest.raises(RequestError, match="more than 512 tokens") as refused:
        check_texts(counting, query)
    assert refused.value.code == "context_length_exceeded"
    assert counting.characters <= 10 * 16_384  # of the longest tokens there may be few in a slice


def test_what_may_fit_is_left_to_the_count(llm: Llama) -> None:
    text = " ".join(["antidisestablishmentarianism"] * 60)
    assert len(text) > 1000
    check_texts(llm, TextQuery(prompts=[text]))


def test_over_http(url: str) -> None:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": HOSTILE[0] * 6}]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
