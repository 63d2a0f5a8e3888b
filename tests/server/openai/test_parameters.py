"""Every parameter that the openai package can send is honoured, harmless, or refused by name."""

import functools
import json
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import httpx
import openai
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params

HELLO = [{"role": "user", "content": "Say hello to the world."}]
TOOL = {"type": "function", "function": {"name": "f", "description": "Says hello"}}
FLAT_TOOL = {"type": "function", "name": "f", "description": "Says hello"}
SCHEMA = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"],
          "additionalProperties": False}  # fmt: skip
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
FORMAT = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
REFUSED = object()
"""Any value; null alone is taken."""


@dataclass
class Endpoint:
    """A route, what a request there can have, and what each of its fields does.

    `honoured`: the field changes the answer (or how it comes) in the way that the entry shows.
    `harmless`: with this value the answer is the same. `refused`: so is every value but null.
    `needed`: without the field there is no answer.
    """

    path: str
    params: tuple[type, ...]
    base: dict[str, Any]
    needed: set[str]
    honoured: dict[str, dict[str, Any]]
    harmless: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, Any] = field(default_factory=dict)


def names(*params: type) -> set[str]:
    return {name for kind in params for name in get_type_hints(kind)}


PENALTY: dict[str, Any] = {"presence_penalty": -100, "frequency_penalty": -100}
SAMPLING: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 1.9, "seed": 1},
    "top_p": {"temperature": 1.9, "seed": 1, "top_p": 0.4},
    "seed": {"temperature": 1.9, "seed": 3},
    "frequency_penalty": {"frequency_penalty": -100},
    "presence_penalty": {"presence_penalty": -100},
    "logit_bias": {"logit_bias": {"28": 100}},
    "stop": {"stop": ["o", "a", "e"]},
}

CHAT = Endpoint(
    "/v1/chat/completions",
    (chat_params.CompletionCreateParamsNonStreaming, chat_params.CompletionCreateParamsStreaming),
    {"model": "smollm2", "messages": HELLO, "temperature": 0, "max_tokens": 4},
    {"model", "messages"},
    {
        **SAMPLING,
        "max_tokens": {"max_tokens": 1},
        "max_completion_tokens": {"max_tokens": None, "max_completion_tokens": 1},
        "n": {"n": 2},
        "logprobs": {"logprobs": True},
        "top_logprobs": {"logprobs": True, "top_logprobs": 2},
        "response_format": {"response_format": JSON_SCHEMA},
        "stream": {"stream": True},
        "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
        "tools": {"tools": [TOOL]},
        "tool_choice": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 40},
        "parallel_tool_calls": {
            "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False,
            "max_tokens": 40,
        },
    },
    {
        "user": "someone",
        "safety_identifier": "someone",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "modalities": ["text"],
        "prompt_cache_key": "key",
    },
    {
        "audio": {"voice": "ash", "format": "wav"},
        "function_call": "auto",
        "functions": [{"name": "f"}],
        "moderation": {"model": "omni"},
        "prediction": {"type": "content", "content": "Hello"},
        "prompt_cache_options": {"mode": "explicit"},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "low",
        "verbosity": "low",
        "web_search_options": {},
    },
)  # fmt: skip

COMPLETION = Endpoint(
    "/v1/completions",
    (
        completion_create_params.CompletionCreateParamsNonStreaming,
        completion_create_params.CompletionCreateParamsStreaming,
    ),
    {"model": "smollm2", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 4},
    {"model", "prompt"},
    {
        **SAMPLING,
        "max_tokens": {"max_tokens": 1},
        "n": {"n": 2},
        "best_of": {"best_of": 2},
        "echo": {"echo": True},
        "logprobs": {"logprobs": 1},
        "stream": {"stream": True},
        "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    },
    {"user": "someone"},
    {"suffix": "The end."},
)

RESPONSE = Endpoint(
    "/v1/responses",
    (
        response_create_params.ResponseCreateParamsNonStreaming,
        response_create_params.ResponseCreateParamsStreaming,
    ),
    {
        "model": "smollm2", "input": "Say hello to the world.", "temperature": 0,
        "max_output_tokens": 4,
    },
    {"model", "input"},
    {
        "temperature": {"temperature": 1.9, "seed": 1},
        "top_p": {"temperature": 1.9, "seed": 1, "top_p": 0.4},
        "instructions": {"instructions": "You are a pirate."},
        "max_output_tokens": {"max_output_tokens": 1},
        "include": {"include": ["message.output_text.logprobs"]},
        "top_logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        "metadata": {"metadata": {"a": "b"}},
        "previous_response_id": {"previous_response_id": "resp_none"},
        "store": {"store": False},
        "stream": {"stream": True},
        "text": {"text": FORMAT},
        "tools": {"tools": [FLAT_TOOL]},
        "tool_choice": {"tools": [FLAT_TOOL], "tool_choice": "required", "max_output_tokens": 40},
        "parallel_tool_calls": {"parallel_tool_calls": False},
        "user": {"user": "someone"},
        "safety_identifier": {"safety_identifier": "someone"},
        "prompt_cache_key": {"prompt_cache_key": "key"},
    },
    {"background": False, "service_tier": "auto", "truncation": "disabled"},
    {
        "access_programs": {"cyber": "standard"},
        "background_options": {},
        "context_management": [],
        "conversation": "conv_1",
        "image": {},
        "max_tool_calls": 1,
        "moderation": {"model": "omni"},
        "prompt": {"id": "pmpt_1"},
        "prompt_cache_options": {"mode": "explicit"},
        "prompt_cache_retention": "24h",
        "reasoning": {"effort": "low"},
    },
)  # fmt: skip

EMBEDDING = Endpoint(
    "/v1/embeddings",
    (embedding_create_params.EmbeddingCreateParams,),
    {"model": "smollm2", "input": "Hello"},
    {"model", "input"},
    {"encoding_format": {"encoding_format": "base64"}},
    {"user": "someone"},
    {"dimensions": 64},
)

ENDPOINTS = (CHAT, COMPLETION, RESPONSE, EMBEDDING)
VARYING = ("id", "created", "created_at", "completed_at", "system_fingerprint", "usage")


def cases(kind: str) -> list[Any]:
    return [
        pytest.param(endpoint, name, value, id=f"{endpoint.path}-{name}")
        for endpoint in ENDPOINTS
        for name, value in getattr(endpoint, kind).items()
    ]


def ask(url: str, endpoint: Endpoint, fields: dict[str, Any]) -> httpx.Response:
    body = {name: value for name, value in (endpoint.base | fields).items() if value is not None}
    return _post(url + endpoint.path, json.dumps(body))


@functools.cache  # many cases compare with the same answer
def _post(url: str, body: str) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return httpx.post(url, content=body, headers=headers, timeout=60)


def content(answer: httpx.Response) -> Any:
    """What of an answer is the same when the same is asked again."""
    if not answer.headers["content-type"].startswith("application/json"):
        return answer.text
    return without(answer.json())


def without(value: Any) -> Any:
    if isinstance(value, list):
        return [without(item) for item in value]
    if isinstance(value, dict):
        return {name: without(item) for name, item in value.items() if name not in VARYING}
    return value


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_no_parameter_is_forgotten(endpoint: Endpoint) -> None:
    kinds = [getattr(endpoint, kind) for kind in ("honoured", "harmless", "refused")]
    said = [endpoint.needed, *map(set, kinds)]
    assert sum(map(len, said)) == len(set().union(*said))  # each is one of them
    known = names(*endpoint.params)
    if endpoint is RESPONSE:
        known -= {"stream_options"}  # its one field is tested below
    assert set().union(*said) == known


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_what_is_needed(url: str, endpoint: Endpoint) -> None:
    for name in endpoint.needed:
        answer = ask(url, endpoint, {name: None})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == name
        assert answer.json()["error"]["code"] == "missing_required_parameter"


@pytest.mark.parametrize(("endpoint", "name", "fields"), cases("honoured"))
def test_what_is_honoured(url: str, endpoint: Endpoint, name: str, fields: dict[str, Any]) -> None:
    """The answer with the field differs from that without it."""
    plain = ask(url, endpoint, {k: v for k, v in fields.items() if k != name})
    answer = ask(url, endpoint, fields)
    assert plain.status_code == 200, plain.text
    if name == "previous_response_id":
        assert answer.status_code == 404
        return
    assert answer.status_code == 200, answer.text
    if name in ("top_p", "best_of") or (name, endpoint) == ("parallel_tool_calls", CHAT):
        return  # the answer may be the same: tests of their own show what they do
    assert content(answer) != content(plain)


@pytest.mark.parametrize(("endpoint", "name", "value"), cases("harmless"))
def test_what_changes_nothing(url: str, endpoint: Endpoint, name: str, value: Any) -> None:
    plain = ask(url, endpoint, {})
    answer = ask(url, endpoint, {name: value})
    assert (plain.status_code, answer.status_code) == (200, 200), answer.text
    assert content(answer) == content(plain)


@pytest.mark.parametrize(("endpoint", "name", "value"), cases("refused"))
def test_what_is_refused_by_name(url: str, endpoint: Endpoint, name: str, value: Any) -> None:
    answer = ask(url, endpoint, {name: value})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert error["message"].startswith(name)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_null_is_as_if_it_were_left_out(url: str, endpoint: Endpoint) -> None:
    every = {name: None for kind in ("honoured", "refused") for name in getattr(endpoint, kind)}
    body = json.dumps(every | endpoint.base)
    assert content(_post(url + endpoint.path, body)) == content(ask(url, endpoint, {}))


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSE], ids=lambda endpoint: endpoint.path)
def test_obfuscation_is_refused(url: str, endpoint: Endpoint) -> None:
    for value, status in ((True, 400), (False, 200)):
        options = {"stream": True, "stream_options": {"include_obfuscation": value}}
        assert ask(url, endpoint, options).status_code == status


@pytest.mark.client("openai", "models: delete", refused=True)
def test_models_cannot_be_deleted(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="DELETE does not work") as told:
        client.models.delete("smollm2")
    assert told.value.status_code == 405


@pytest.mark.client("openai", "models: list and retrieve")
def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert client.models.retrieve(model.id) == model
