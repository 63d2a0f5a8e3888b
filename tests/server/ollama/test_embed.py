"""Vectors through the ollama client, with the default model."""

import asyncio

import numpy as np
import ollama
import pytest

from alpage import Llama

TEXTS = ["The sky is blue.", "Grass is green.", "a"]


@pytest.mark.client("ollama", "embed: one text or several")
def test_vectors_are_the_facades(asking: ollama.Client, llm: Llama) -> None:
    wanted = llm.embed(TEXTS)
    answer = asking.embed("smollm2", TEXTS)
    found = np.array(answer.embeddings, np.float32)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert answer.prompt_eval_count == sum(len(llm.prompt_ids(text)) for text in TEXTS)
    assert answer.total_duration is not None and answer.total_duration > 0
    assert answer.model == "smollm2"
    one = asking.embed("smollm2", TEXTS[0])
    np.testing.assert_array_equal(np.array(one.embeddings, np.float32), wanted[:1])


@pytest.mark.client("ollama", "embed: truncate")
def test_long_texts_are_cut_unless_that_is_refused(asking: ollama.Client, llm: Llama) -> None:
    long, room = "A sentence of several words. " * 100, {"num_ctx": 20}
    wanted = llm.embed([llm.detokenize(llm.prompt_ids(long)[:20])])
    for truncate in (None, True):
        answer = asking.embed("smollm2", [long], truncate=truncate, options=room)
        np.testing.assert_array_equal(np.array(answer.embeddings, np.float32), wanted)
        assert answer.prompt_eval_count == 20
    with pytest.raises(
        ollama.ResponseError, match=r"a text has 6\d\d tokens, but the context hold"
    ):
        asking.embed("smollm2", [long], truncate=False)
    assert asking.embed("smollm2", [long]).prompt_eval_count == llm.context


@pytest.mark.client("ollama", "embed: the asynchronous client, and no text at all")
def test_nothing_to_embed(asking: ollama.Client, url: str) -> None:
    assert asking.embed("smollm2", "").embeddings == []
    assert asking.embed("smollm2", []).embeddings == []
    with pytest.raises(ollama.ResponseError, match="text 1 is empty"):
        asking.embed("smollm2", ["a", ""])

    async def ask() -> int:
        async with ollama.AsyncClient(url, timeout=120) as client:
            return len((await client.embed("smollm2", TEXTS)).embeddings)

    assert asyncio.run(ask()) == len(TEXTS)


@pytest.mark.client("ollama", "embeddings, the older route: a vector of length 1")
def test_one_text_the_older_way(asking: ollama.Client, llm: Llama) -> None:
    answer = asking.embeddings("smollm2", TEXTS[0])
    np.testing.assert_array_equal(np.array(answer.embedding, np.float32), llm.embed(TEXTS)[0])
    assert asking.embeddings("smollm2").embedding == []


@pytest.mark.client("ollama", "embed: dimensions", refused=True)
def test_dimensions_are_refused(asking: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="dimensions is 64: this server does not sup"):
        asking.embed("smollm2", "a", dimensions=64)
    with pytest.raises(ollama.ResponseError, match=r"options.num_ctx is 1000, but 'smollm2' is"):
        asking.embed("smollm2", "a", options={"num_ctx": 1000})
