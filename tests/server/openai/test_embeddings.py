"""Embeddings through the openai client, with the default model."""

import base64
from typing import Any

import numpy as np
import openai
import pytest

from alpage import Llama

TEXTS = ["A mountain pasture", "Eine Alp", "東京 🏔"]


def embed(client: openai.OpenAI, given: Any, **more: Any) -> Any:
    return client.embeddings.create(model="smollm2", input=given, **more)


@pytest.mark.client("openai", "embeddings: texts and token ids")
def test_vectors_are_the_facades(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.embed(TEXTS)
    ids = [llm.prompt_ids(text) for text in TEXTS]
    for given in (TEXTS, ids):
        answer = embed(client, given)
        found = np.array([entry.embedding for entry in answer.data], np.float32)
        assert np.array_equal(found, wanted)
        assert [entry.index for entry in answer.data] == [0, 1, 2]
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
        assert (answer.object, answer.model) == ("list", "smollm2")
    for alone in (TEXTS[1], ids[1]):
        (entry,) = embed(client, alone).data
        assert np.array_equal(np.array(entry.embedding, np.float32), wanted[1])
    assert np.linalg.norm(wanted, axis=1) == pytest.approx(1)


@pytest.mark.client("openai", "embeddings: float and base64")
def test_both_encodings_say_the_same(client: openai.OpenAI, llm: Llama) -> None:
    (wanted,) = llm.embed(TEXTS[:1])
    (entry,) = embed(client, TEXTS[0], encoding_format="float").data
    assert entry.embedding == wanted.tolist()
    (entry,) = embed(client, TEXTS[0], encoding_format="base64").data
    assert np.array_equal(np.frombuffer(base64.b64decode(entry.embedding), "<f4"), wanted)


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"input": ""}, "the input is empty", "input"),
        ({"input": []}, "the input is empty", "input"),
        ({"input": ["a", ""]}, "text 1 is empty", "input"),
        ({"input": [[]]}, "text 0 is empty", "input"),
        ({"input": [49152]}, "token id 49152 is outside the vocabulary", None),
        ({"input": ["a"] * 2049}, "at most 2048 items", "input"),
        ({"input": "word " * 600}, "tokens, but the context holds 512", None),
        ({"dimensions": 64}, "dimensions is 64: this server does not support it", "dimensions"),
        ({"encoding_format": "int8"}, "supported is 'float' or 'base64'", "encoding_format"),
    ],
)
def test_what_is_refused(
    client: openai.OpenAI, fields: dict[str, Any], message: str, param: str | None
) -> None:
    asked: dict[str, Any] = {"model": "smollm2", "input": "Hello", "encoding_format": "float"}
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.embeddings.create(**asked | fields)
    assert caught.value.param == param


@pytest.mark.client("openai", "embeddings: dimensions", refused=True)
def test_a_part_of_a_vector_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does not support it"):
        embed(client, TEXTS, dimensions=64)
