"""openai's client asks one Alpage, which asks another: everything is as if asked directly."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from tests.server.serving import serving

from alpage.server.app import Surroundings
from alpage.server.backends.fleet import Endpoints
from alpage.server.backends.upstream import UpstreamModel
from alpage.server.pool import Pool

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three mountains."}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def far(url: str) -> Iterator[openai.OpenAI]:
    """A client of the server in front, which calls the other's model `far`."""
    endpoints = Endpoints(name="far", urls=(f"{url}/v1",))
    model = UpstreamModel("far", "smollm2", endpoints, extensions=["top_k"], context=512)
    with (
        serving(Surroundings(pool=Pool({"far": model}), local=True)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def plain(answer: Any) -> Any:
    """An answer without what differs from one request to the next."""
    found = answer.model_dump()
    for name in ("id", "created", "model", "system_fingerprint"):
        del found[name]
    found["usage"].pop("prompt_tokens_details")
    return found


@pytest.mark.client("openai", "upstream: chat")
@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 1, "seed": 5, "n": 3},
        {"temperature": 0, "logprobs": True, "top_logprobs": 3},
        {"temperature": 0, "stop": ["Mount"]},
        {"temperature": 0, "logit_bias": {"28": -50}, "frequency_penalty": 0.5},
        {"seed": 7, "extra_body": {"top_k": 5}},
    ],
)
def test_chats_are_the_same(client: openai.OpenAI, far: openai.OpenAI, fields: Any) -> None:
    both = [
        one.chat.completions.create(model=name, messages=ASK, max_tokens=24, **fields)
        for one, name in ((client, "smollm2"), (far, "far"))
    ]
    assert plain(both[0]) == plain(both[1])
    assert both[1].model == "far"


@pytest.mark.client("openai", "upstream: chat, streaming with usage")
def test_streams_are_the_same(client: openai.OpenAI, far: openai.OpenAI) -> None:
    found = []
    for one, name in ((client, "smollm2"), (far, "far")):
        stream = one.chat.completions.create(
            model=name, messages=ASK, max_tokens=24, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = list(stream)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        (finish,) = {c.choices[0].finish_reason for c in chunks if c.choices} - {None}
        usage = chunks[-1].usage
        assert usage is not None
        found.append((text, finish, usage.prompt_tokens, usage.completion_tokens, len(chunks)))
    assert found[0] == found[1]


@pytest.mark.client("openai", "upstream: completions, echo with logprobs")
@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 12},
        {"max_tokens": 12, "logprobs": 2},
        {"max_tokens": 0, "echo": True, "logprobs": 1},
        {"max_tokens": 6, "echo": True, "logprobs": 0},
        {"max_tokens": 6, "echo": True},
        {"max_tokens": 6, "n": 2, "seed": 3, "temperature": 1},
    ],
)
def test_completions_are_the_same(client: openai.OpenAI, far: openai.OpenAI, fields: Any) -> None:
    prompts = ["The capital of France is", "Grüße aus 東京 🏔 und"]
    given = {"temperature": 0} | fields
    both = [
        one.completions.create(model=name, prompt=prompts, **given)
        for one, name in ((client, "smollm2"), (far, "far"))
    ]
    assert plain(both[0]) == plain(both[1])


def test_prompts_of_ids(client: openai.OpenAI, far: openai.OpenAI) -> None:
    both = [
        one.completions.create(model=name, prompt=[504, 3575, 282], max_tokens=5, temperature=0)
        for one, name in ((client, "smollm2"), (far, "far"))
    ]
    assert plain(both[0]) == plain(both[1])
    with pytest.raises(openai.BadRequestError, match="token ids cannot be echoed"):
        far.completions.create(model="far", prompt=[504, 3575], max_tokens=5, echo=True)


@pytest.mark.client("openai", "upstream: tools")
def test_tools_are_the_same(client: openai.OpenAI, far: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "What is the weather in Paris? Call the tool."},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny"},
        {"role": "user", "content": "And in Paris?"},
    ]
    both = []
    for one, name in ((client, "smollm2"), (far, "far")):
        answer = one.chat.completions.create(
            model=name, messages=messages, tools=[WEATHER], temperature=0, max_tokens=40
        )
        found = plain(answer)
        for call in found["choices"][0]["message"]["tool_calls"] or ():
            del call["id"]
        both.append(found)
    assert both[0] == both[1]


@pytest.mark.client("openai", "upstream: a tool that has to be called")
def test_a_tool_that_has_to_be_called(client: openai.OpenAI, far: openai.OpenAI) -> None:
    both = []
    for one, name in ((client, "smollm2"), (far, "far")):
        answer = one.chat.completions.create(
            model=name, messages=ASK, tools=[WEATHER], temperature=0, max_tokens=60,
            tool_choice={"type": "function", "function": {"name": "weather"}},
        )  # fmt: skip
        calls = answer.choices[0].message.tool_calls or []
        assert len(calls) == 1
        call: Any = calls[0]
        both.append((call.function.name, call.function.arguments, answer.choices[0].finish_reason))
    assert both[0] == both[1]
    assert both[1][0] == "weather"


@pytest.mark.client("openai", "upstream: embeddings")
def test_embeddings_are_the_same(client: openai.OpenAI, far: openai.OpenAI) -> None:
    texts = ["A mountain pasture", "Eine Alp"]
    near, away = (
        one.embeddings.create(model=name, input=texts)
        for one, name in ((client, "smollm2"), (far, "far"))
    )
    assert away.usage == near.usage
    for mine, theirs in zip(away.data, near.data, strict=True):
        assert mine.embedding == pytest.approx(theirs.embedding, abs=1e-6)
    with pytest.raises(openai.BadRequestError, match=r"far: .*the context holds 512"):
        far.embeddings.create(model="far", input="word " * 2000)


@pytest.mark.client("anthropic", "messages: for a model that another server runs")
def test_another_dialect_over_it(client: openai.OpenAI, far: openai.OpenAI) -> None:
    """Anthropic's client in front, OpenAI's API between the two servers."""
    found = []
    for one, name in ((client, "smollm2"), (far, "far")):
        url = str(one.base_url).removesuffix("/v1/")
        with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as claude:
            question = {"role": "user", "content": "Name a mountain."}
            asked: Any = {
                "model": name,
                "max_tokens": 20,
                "extra_body": {"temperature": 0},
                "system": "Be brief.",
                "messages": [question],
            }
            whole = claude.messages.create(**asked)
            with claude.messages.stream(**asked) as stream:
                text = stream.get_final_text()
        (block,) = whole.content
        assert block.type == "text" and block.text == text
        found.append((text, whole.stop_reason, whole.usage.output_tokens))
    assert found[0] == found[1]


@pytest.mark.client("openai", "upstream: JSON by a schema")
def test_json_is_the_same(client: openai.OpenAI, far: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"peak": {"enum": ["Eiger", "Rigi"]}},
              "required": ["peak"], "additionalProperties": False}  # fmt: skip
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "peak", "schema": schema}}
    both = [
        one.chat.completions.create(
            model=name, messages=ASK, response_format=wanted, temperature=0, max_tokens=40
        )
        for one, name in ((client, "smollm2"), (far, "far"))
    ]
    assert plain(both[0]) == plain(both[1])
    assert both[1].choices[0].message.content in ('{"peak": "Eiger"}', '{"peak": "Rigi"}')


@pytest.mark.client("openai", "upstream: options that the other side does not take", refused=True)
def test_their_refusals_are_passed_on(far: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="min_p is not taken by this model") as told:
        far.chat.completions.create(model="far", messages=ASK, extra_body={"min_p": 0.1})
    assert told.value.param == "min_p"
    with pytest.raises(
        openai.BadRequestError, match=r"far: the prompt is too long: .* tokens, but"
    ) as told:
        far.completions.create(model="far", prompt="word " * 2000)
    assert told.value.code == "context_length_exceeded"


def test_what_is_told_of_it(far: openai.OpenAI) -> None:
    (model,) = far.models.list()
    assert (model.id, model.model_dump()["context_length"]) == ("far", 512)
    health = httpx.get(str(far.base_url).replace("/v1/", "/health")).json()
    assert health["models"] == [
        {
            "id": "far",
            "active_requests": 0,
            "upstreams": [{"breaker": "closed", "active_requests": 0}],
        }
    ]
