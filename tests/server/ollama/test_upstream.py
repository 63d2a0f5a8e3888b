"""The ollama client in front of a model that another server runs: here another Alpage."""

import asyncio
from collections.abc import Iterator

import httpx
import ollama
import pytest
from tests.server.ollama.test_chat import HELLO, NEEDS_TOOL, get_weather
from tests.server.serving import serving

from alpage.server.app import Surroundings
from alpage.server.backends.fleet import Endpoints
from alpage.server.backends.upstream import UpstreamModel
from alpage.server.ollama.requests import OllamaMessage, openai_form
from alpage.server.pool import Pool

GREEDY = {"temperature": 0, "num_predict": 20}


@pytest.fixture(scope="module")
def far_url(url: str) -> Iterator[str]:
    model = UpstreamModel("far", "smollm2", Endpoints(name="far", urls=(f"{url}/v1",)))
    with serving(Surroundings(pool=Pool({"far": model}), local=True)) as running:
        yield running.url
    asyncio.run(model.leave())


@pytest.fixture(scope="module")
def far(far_url: str) -> Iterator[ollama.Client]:
    with ollama.Client(far_url, timeout=120) as client:
        yield client


def test_answers_are_the_other_servers(far: ollama.Client, asking: ollama.Client) -> None:
    near = asking.chat("smollm2", HELLO, options=GREEDY)
    whole = far.chat("far", HELLO, options=GREEDY)
    assert whole.message.content == near.message.content
    assert whole.eval_count == near.eval_count
    assert whole.prompt_eval_count == near.prompt_eval_count
    parts = list(far.chat("far", HELLO, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == near.message.content
    raw = far.generate("far", "Once upon a time", raw=True, options=GREEDY)
    nearby = asking.generate("smollm2", "Once upon a time", raw=True, options=GREEDY)
    assert raw.response == nearby.response


def test_tools_travel_in_openais_form(far: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 60}
    answer = far.chat("far", NEEDS_TOOL, tools=[get_weather], options=options)
    (call,) = answer.message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Berlin"})


@pytest.mark.client("ollama", "options: num_ctx for a model that runs elsewhere", refused=True)
def test_what_only_the_other_server_knows(far: ollama.Client, far_url: str) -> None:
    with pytest.raises(ollama.ResponseError, match=r"options.num_ctx works with models that this"):
        far.chat("far", HELLO, options={"num_ctx": 64})
    with pytest.raises(ollama.ResponseError, match=r"top_k is not taken by this model"):
        far.chat("far", HELLO, options={"top_k": 3})
    with pytest.raises(ollama.ResponseError, match=r"cannot be cut to its context here"):
        far.embed("far", "a", truncate=True)
    for route, body in (
        ("tokenize", {"text": "a"}),
        ("detokenize", {"tokens": [1]}),
        ("apply-template", {"messages": HELLO}),
        ("rerank", {"query": "a", "documents": ["b"], "method": "logprob"}),
    ):
        answer = httpx.post(f"{far_url}/v1/{route}", json={"model": "far", **body})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("model", "unsupported_model")
        assert f"{route} works" in error["message"] or "logprob" in error["message"]


def test_it_is_listed_but_not_running_here(far: ollama.Client) -> None:
    assert [model.model for model in far.list().models] == ["far"]
    assert list(far.ps().models) == []
    shown = far.show("far")
    assert (shown.template, shown.capabilities) == ("", ["completion", "tools"])


def test_calls_without_ids_get_them() -> None:
    def message(role: str, content: str = "", **more: object) -> OllamaMessage:
        return OllamaMessage.model_validate({"role": role, "content": content, **more})

    def call(name: str, **more: object) -> dict[str, object]:
        return {"function": {"name": name, "arguments": {"x": 1}}, **more}

    shown = openai_form(
        [
            message("assistant", tool_calls=[call("a"), call("b"), call("a", id="mine")]),
            message("tool", "of b", tool_name="b"),
            message("tool", "of the first a", tool_name="a"),
            message("tool", "of mine", tool_call_id="mine"),
            message("tool", "of nobody", tool_name="c"),
            message("assistant", tool_calls=[call("a")]),
            message("tool", "of the last"),
        ]
    )
    assert [made["id"] for made in shown[0]["tool_calls"]] == ["call00000", "call00001", "mine"]
    assert shown[0]["tool_calls"][0]["function"] == {"name": "a", "arguments": '{"x": 1}'}
    answered = [told.get("tool_call_id") for told in shown if told["role"] == "tool"]
    assert answered == ["call00001", "call00000", "mine", None, "call00003"]
