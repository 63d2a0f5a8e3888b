"""The openai client in front of a model that another server runs: here another Alpage."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from tests.server.openai.test_responses import ASK, NEEDS_TOOL, WEATHER
from tests.server.serving import serving

from alpage import Llama
from alpage.server.app import Surroundings
from alpage.server.backends.fleet import Endpoints
from alpage.server.backends.upstream import UpstreamModel
from alpage.server.pool import Pool


@pytest.fixture(scope="module")
def far(url: str) -> Iterator[openai.OpenAI]:
    endpoints = Endpoints(name="far", urls=(f"{url}/v1",))
    model = UpstreamModel("far", "smollm2", endpoints, extensions=("context_policy",))
    with (
        serving(Surroundings(pool=Pool({"far": model}), local=True)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client
    asyncio.run(model.leave())


def both(far: openai.OpenAI, client: openai.OpenAI, **options: Any) -> list[Any]:
    asked: dict[str, Any] = {"input": ASK, "temperature": 0, "max_output_tokens": 20} | options
    return [
        far.responses.create(model="far", **asked),
        client.responses.create(model="smollm2", **asked),
    ]


def test_responses_are_the_other_servers(far: openai.OpenAI, client: openai.OpenAI) -> None:
    there, here = both(far, client)
    assert there.output_text == here.output_text != ""
    assert there.status == here.status
    assert there.usage.output_tokens == here.usage.output_tokens
    there, here = (list(stream) for stream in both(far, client, stream=True))
    assert [e.type for e in there if "delta" not in e.type] == [
        e.type for e in here if "delta" not in e.type
    ]
    assert there[-1].response.output_text == here[-1].response.output_text
    scores = [
        [entry.logprob for entry in answer.output[0].content[0].logprobs]
        for answer in both(far, client, include=["message.output_text.logprobs"])
    ]
    assert scores[0] == scores[1] != []


def test_calls_are_the_other_servers(far: openai.OpenAI, client: openai.OpenAI) -> None:
    options: Any = {"input": NEEDS_TOOL, "tools": [WEATHER], "max_output_tokens": 60}
    for choice in ("auto", "required", {"type": "function", "name": "get_weather"}):
        there, here = both(far, client, **options, tool_choice=choice)
        arguments = [json.loads(answer.output[0].arguments) for answer in (there, here)]
        assert arguments[0] == arguments[1]


def test_conversations_are_kept_here(far: openai.OpenAI) -> None:
    first = far.responses.create(model="far", input="My name is Ada.", max_output_tokens=8)
    second = far.responses.create(
        model="far", input="Who am I?", previous_response_id=first.id, max_output_tokens=8
    )
    items = far.responses.input_items.list(second.id)
    assert len(list(items)) == 3


def test_embeddings_are_the_other_servers(far: openai.OpenAI, llm: Llama) -> None:
    answer = far.embeddings.create(model="far", input=["A pasture", "An alp"])
    found = np.array([entry.embedding for entry in answer.data], np.float32)
    assert found == pytest.approx(llm.embed(["A pasture", "An alp"]), abs=1e-6)


def test_time_that_runs_out_is_a_length_there_too(far: openai.OpenAI) -> None:
    answer = far.chat.completions.create(
        model="far", messages=[{"role": "user", "content": ASK}],
        logit_bias={"0": -100, "1": -100, "2": -100},
        extra_body={"timeout": 0.3, "context_policy": "shift"},
    )  # fmt: skip
    assert answer.choices[0].finish_reason == "length"


def test_what_the_other_server_is_not_known_to_take(far: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="regex is not taken by this model") as told:
        far.responses.create(model="far", input=ASK, extra_body={"regex": "a"})
    assert told.value.param == "regex"
