"""The server as HTTP: who may ask, what a body may be, and what refusals look like."""

import json
import re
import socket
from typing import Any

import httpx
import openai
import pytest

from alpage.server.guard import MAX_BODY

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, in OpenAI's shape and nothing else."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_health_and_models(url: str, client: openai.OpenAI) -> None:
    health = httpx.get(f"{url}/health").json()
    assert health["status"] == "ok"
    assert health["models"] == [{"id": "smollm2", "active_requests": 0}]
    (model,) = client.models.list()
    assert model == client.models.retrieve("smollm2")
    assert (model.id, model.object, model.owned_by) == ("smollm2", "model", "HuggingFaceTB")
    assert model.model_dump()["context_length"] == 512


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9' here; this server has: smo"):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="a/b", messages=[{"role": "user", "content": "Hi"}])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_what_is_not_there(url: str) -> None:
    assert refusal(httpx.get(f"{url}/v2"), 404)["message"] == "there is no '/v2' here"
    refused = httpx.get(f"{url}/v1/chat/completions")
    assert "GET does not work" in refusal(refused, 405)["message"]
    assert refused.headers["allow"] == "POST"
    for page in ("/docs", "/redoc"):  # they would load scripts from elsewhere
        refusal(httpx.get(url + page), 404)


def test_the_schema_describes_the_bodies(url: str) -> None:
    schema = httpx.get(f"{url}/openapi.json").json()
    paths = {"/health", "/ready", "/v1/models", "/v1/models/{name}", *PATHS}
    paths |= {"/v1/responses/{response_id}", "/v1/responses/{response_id}/input_items"}
    assert paths <= set(schema["paths"])
    bodies = schema["components"]["schemas"]
    fields = bodies["ChatRequest"]["properties"]
    assert {"messages", "top_k", "stream_options"} <= set(fields)
    assert bodies["ChatRequest"]["additionalProperties"] is False
    for path in PATHS:
        asked = schema["paths"][path]["post"]
        assert asked["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert {"200", "400", "401", "404", "408", "413", "415", "429", "503"} <= set(
            asked["responses"]
        )
        streams = "text/event-stream" in asked["responses"]["200"]["content"]
        assert streams == (path != "/v1/embeddings")
    assert set(bodies["ErrorBody"]["properties"]) == {"error"}
    text = json.dumps(schema)
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in bodies


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"model": "\xff"}', "the body is not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"a": ' + b"[" * 100_000, "the body is not JSON: Invalid JSON: recursion limit"),
        (b'{"max_tokens": ' + b"9" * 10_000 + b"}", "the body is not JSON"),
        (b"{}", "this field is required"),
        (b"{" + b",".join(b'"x%d":0' % i for i in range(5000)) + b"}", "the body has 500. mist"),
    ],
)
def test_malformed_bodies(url: str, path: str, body: bytes, message: str) -> None:
    answer = httpx.post(
        url + path, content=body, headers={"content-type": "application/json; charset=utf-8"}
    )
    found = refusal(answer, 400)["message"]
    assert re.search(message, found), found


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_only_json_is_read(url: str, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = httpx.post(f"{url}{PATHS[0]}", content=json.dumps(CHAT), headers=headers)
    assert "must be application/json" in refusal(answer, 415)["message"]


def test_a_body_too_large(url: str) -> None:
    body = json.dumps(CHAT | {"user": "x" * MAX_BODY}).encode()
    headers = {"content-type": "application/json"}
    announced = httpx.post(f"{url}{PATHS[0]}", content=body, headers=headers, timeout=60)
    chunked = httpx.post(
        f"{url}{PATHS[0]}",
        content=(body[i : i + 65536] for i in range(0, len(body), 65536)),
        headers=headers,
        timeout=60,
    )
    for answer in (announced, chunked):
        assert "larger than 16 MiB" in refusal(answer, 413)["message"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[", "", "10.0.0.1"]
)
def test_a_foreign_host_is_refused(url: str, host: str) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", PATHS[0])):
        answer = httpx.request(method, url + path, json=CHAT, headers={"host": host})
        assert answer.status_code in (400, 403)  # h11 itself refuses some
        assert "smollm2" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8080"])
def test_names_of_this_machine_are_answered(url: str, host: str) -> None:
    assert httpx.get(f"{url}/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "["])
def test_pages_of_others_cannot_ask(url: str, origin: str) -> None:
    answer = httpx.post(f"{url}{PATHS[0]}", json=CHAT, headers={"origin": origin})
    assert refusal(answer, 403)["code"] == "origin_not_allowed"
    asked_first = httpx.options(
        f"{url}{PATHS[0]}",
        headers={"origin": origin, "access-control-request-method": "POST"},
    )
    assert asked_first.status_code == 403
    for given in (answer, asked_first):
        assert not [name for name in given.headers if name.startswith("access-control")]


def test_a_page_of_its_own_may_ask(url: str) -> None:
    answer = httpx.post(f"{url}{PATHS[0]}", json=CHAT, headers={"origin": url}, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_stream_is_what_browsers_expect(url: str) -> None:
    answer = httpx.post(f"{url}{PATHS[0]}", json=CHAT | {"stream": True}, timeout=60)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


def test_a_client_that_leaves_in_the_middle_of_its_body(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )
    assert httpx.get(f"{url}/health").status_code == 200


HUGE = {"type": "object", "description": "x" * (1 << 18)}
TOOL = {"type": "function", "function": {"name": "g"}}
SEVENTEEN = [f"{i}" for i in range(17)]


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"temperatur": 1}, "no such field; did you mean temperature?", "temperatur"),
        ({"response_format": {"type": "grammar"}}, "response_format", "response_format.type"),
        ({"tool_choice": "required"}, "asks for a call, but there are no tools", "tool_choice"),
        ({"tool_choice": "any"}, "supported is 'none', 'auto' or 'required'", "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            "asks for a call, but there are no tools",
            "tool_choice",
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [TOOL]},
            "tool_choice names 'f', which is none of the tools: g",
            "tool_choice",
        ),
        (
            {"tool_choice": {"type": "custom", "custom": {"name": "f"}}},
            'tool_choice.type is "custom": supported is',
            "tool_choice.type",
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": []},
                },
                "tools": [TOOL],
            },
            "tool_choice allows no tool at all",
            "tool_choice",
        ),
        ({"tools": [TOOL, TOOL]}, "two tools have the name 'g'", "tools"),
        ({"timeout": 0}, "timeout is 0", "timeout"),
        ({"regex": "a", "grammar": "start: A"}, "regex and grammar both say", "grammar"),
        (
            {"regex": "a", "response_format": {"type": "json_object"}},
            "response_format and regex both say",
            "regex",
        ),
        ({"regex": "("}, "regex", "regex"),
        ({"regex": "a" * 65_537}, "at most 65536 characters", "regex"),
        ({"grammar": "start: undefined"}, "grammar", "grammar"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": HUGE}}]},
            "a schema has at most 262144 characters",
            "tools[0].function.parameters",
        ),
        ({"metadata": {"a" * 65: "b"}}, "at most 64 characters", None),
        ({"metadata": {str(i): "b" for i in range(17)}}, "at most 16 items", "metadata"),
        ({"logit_bias": {str(i): 1 for i in range(8193)}}, "at most 8192", "logit_bias"),
        ({"store": True}, "store is true: supported is false", "store"),
        ({"audio": {"voice": "x"}}, "does not support it; leave it out", "audio"),
        ({"reasoning_effort": "low"}, "does not support it", "reasoning_effort"),
        ({"functions": []}, "does not support it", "functions"),
        ({"web_search_options": {}}, "does not support it", "web_search_options"),
        ({"modalities": ["text", "audio"]}, "modalities", "modalities[1]"),
        ({"temperature": -1}, "temperature must be between 0 and 100, not -1.0", "temperature"),
        ({"temperature": "1"}, 'temperature is "1"', "temperature"),
        ({"temperature": True}, "temperature is true", "temperature"),
        ({"top_p": 2}, "top_p must be between 0 and 1", "top_p"),
        ({"top_k": -1}, "top_k must be 0", "top_k"),
        ({"top_k": 10**30}, "at most 2^31 - 1", "top_k"),
        ({"context_policy": "drop"}, "supported is 'stop' or 'shift'", "context_policy"),
        ({"seed": 2**64}, "seed is 18446744073709551616", "seed"),
        ({"n": 0}, "n is 0", "n"),
        ({"n": 129}, "n is 129", "n"),
        ({"max_tokens": 0}, "max_tokens is 0", "max_tokens"),
        ({"max_completion_tokens": 5}, "max_tokens is 1 and max_completion_tokens is 5", None),
        ({"stop": SEVENTEEN}, "17 stop strings were given; at most 16", None),
        ({"stop": ""}, "a stop string must not be empty", None),
        ({"stop": [1]}, "stop[0] is 1", "stop[0]"),
        ({"logit_bias": {"x": 1}}, 'logit_bias.x is "x"', "logit_bias.x"),
        ({"logit_bias": {"49152": 1}}, "logit_bias names token id 49152", "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias maps token ids", "logit_bias"),
        ({"top_logprobs": 1}, "top_logprobs needs logprobs=true", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs is 21", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream=true only", "stream_options"),
        ({"stream_options": {"x": 1}, "stream": True}, "no such field", "stream_options.x"),
        ({"messages": []}, "at least one message", None),
        ({"messages": [{"role": "user"}]}, "messages[0] (user) has no content", None),
        ({"messages": [{"content": "x"}]}, "messages[0].role: this field", "messages[0].role"),
        ({"messages": [{"role": "king", "content": ""}]}, 'role is "king"', "messages[0].role"),
        ({"messages": "Hi"}, 'messages is "Hi"', "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type is \"image_url\": supported is 'text'",
            "messages[0].content[0].type",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            'tools[0].function.name is "a b"',
            "tools[0].function.name",
        ),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "tools[0].type"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_fields_are_honoured_or_refused_by_name(
    url: str, fields: dict[str, Any], message: str, param: str | None
) -> None:
    for stream in (False, True):
        given = {"stream": stream} | fields if "stream_options" not in fields else fields
        error = refusal(httpx.post(f"{url}{PATHS[0]}", json=CHAT | given), 400)
        assert message in error["message"]
        assert error["type"] == "invalid_request_error"
        if param is not None:
            assert error["param"] == param


def test_a_prompt_longer_than_the_context(client: openai.OpenAI) -> None:
    long = "word " * 2000
    with pytest.raises(openai.BadRequestError, match="tokens, but the context holds 512") as told:
        client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": long}], stream=True
        )
    assert told.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="the context holds 512"):
        client.completions.create(model="smollm2", prompt=["ok", long])
