"""Every refusal reaches the openai client as the exception that its status stands for."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from starlette.datastructures import Headers
from tests.server.serving import serving

from alpage.core.errors import CapacityError, InternalError
from alpage.server.app import Surroundings
from alpage.server.call import Call
from alpage.server.errors import RequestError
from alpage.server.guard import MAX_BODY
from alpage.server.pool import Pool


class StrictDoor:
    """Refuses everyone, in the way that the key names."""

    async def enter(self, call: Call, path: str, headers: Headers) -> None:
        key = headers.get("authorization", "").removeprefix("Bearer ")
        if key == "503":
            raise CapacityError("the queue is full")
        if key == "500":
            raise InternalError("the server failed")
        raise RequestError(f"refused as {key}", status=int(key), code="refused", retry_after=7)

    def leave(self, call: Call) -> None:
        """Nobody was let in."""


@pytest.fixture(scope="module")
def strict(models: Pool) -> Iterator[str]:
    with serving(Surroundings(pool=models, local=True, door=StrictDoor())) as running:
        yield running.url


@pytest.mark.client("openai", "errors: an exception for each status")
@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [
        (400, openai.BadRequestError, "invalid_request_error"),
        (401, openai.AuthenticationError, "authentication_error"),
        (403, openai.PermissionDeniedError, "permission_error"),
        (404, openai.NotFoundError, "invalid_request_error"),
        (408, openai.APIStatusError, "timeout_error"),
        (413, openai.APIStatusError, "invalid_request_error"),
        (415, openai.APIStatusError, "invalid_request_error"),
        (429, openai.RateLimitError, "rate_limit_error"),
        (500, openai.InternalServerError, "server_error"),
        (503, openai.InternalServerError, "server_error"),
    ],
)
def test_each_status_is_an_exception(
    strict: str, status: int, kind: type[openai.APIStatusError], word: str
) -> None:
    with openai.OpenAI(base_url=f"{strict}/v1", api_key=str(status), max_retries=0) as client:
        for ask in (
            lambda: client.models.list(),
            lambda: client.responses.create(model="smollm2", input="Hi"),
            lambda: client.responses.create(model="smollm2", input="Hi", stream=True),
        ):
            with pytest.raises(kind) as told:
                ask()
            assert told.value.status_code == status
            assert told.value.type == word
            assert told.value.request_id is not None
    headers = told.value.response.headers
    if status == 401:
        assert headers["www-authenticate"] == "Bearer"
    assert headers.get("retry-after") == {500: None, 503: "1"}.get(status, "7")


def test_real_refusals_have_their_exceptions(url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="larger than 16 MiB") as large:
        client.responses.create(model="smollm2", input="x" * MAX_BODY)
    assert large.value.status_code == 413
    with pytest.raises(openai.APIStatusError, match="opening brackets") as nested:
        client.responses.create(model="smollm2", input="Hi", extra_body={"x": [[]] * 300_000})
    assert nested.value.status_code == 413
    with pytest.raises(openai.PermissionDeniedError, match="pages of"):
        client.responses.create(
            model="smollm2", input="Hi", extra_headers={"origin": "https://evil.example"}
        )
    answer = httpx.post(f"{url}/v1/responses", content="{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_half_a_surrogate_is_no_text(url: str) -> None:
    """JSON can spell it, but no answer could say it back."""
    for path in ("responses", "chat/completions", "completions", "embeddings"):
        answer = httpx.post(
            f"{url}/v1/{path}",
            content=b'{"model": "smollm2", "input": "\\ud800"}',
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_json"


@pytest.mark.client("openai", "errors: in the middle of a stream")
def test_a_stream_that_fails_in_the_middle_says_so(models: Pool) -> None:
    endless = {"logit_bias": {"0": -100, "1": -100, "2": -100}, "context_policy": "shift"}
    with (
        serving(Surroundings(pool=models, local=True)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.responses.create(
            model="smollm2", input="On and on", stream=True, extra_body=endless
        )
        last, seen = None, 0
        for event in stream:
            last, seen = event, seen + 1
            if seen == 6:
                models.end_running()
    assert last is not None
    assert last.type == "response.failed"
    assert last.sequence_number == seen - 1
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert "shutting down" in last.response.error.message
    assert last.response.output_text != ""


def test_conversations_have_a_length(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 16384 items") as told:
        client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": ""}] * 16_385
        )
    assert told.value.param == "messages"
    with pytest.raises(openai.BadRequestError, match="at most 16384 items") as told:
        client.responses.create(model="smollm2", input=[{"role": "user", "content": ""}] * 16_385)
    assert told.value.param == "input"
    parts: Any = [{"type": "text", "text": "a"}] * 1025
    with pytest.raises(openai.BadRequestError, match="at most 1024 items") as told:
        client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": parts}]
        )
    assert told.value.param == "messages[0].content"


@pytest.mark.client("openai", "responses: cancel, compact, count of input tokens", refused=True)
def test_other_routes_of_responses_are_not_there(client: openai.OpenAI) -> None:
    asked: list[Callable[[], object]] = [
        lambda: client.responses.cancel("resp_1"),
        lambda: client.responses.compact(model="smollm2", input="Hi"),
        lambda: client.responses.input_tokens.count(model="smollm2", input="Hi"),
    ]
    for ask in asked:
        with pytest.raises(openai.APIStatusError, match="/v1/responses/") as told:
            ask()
        assert told.value.status_code in (404, 405)


@pytest.mark.client("openai", "files, batches, images, audio, moderations", refused=True)
def test_other_parts_of_the_api_are_not_there(client: openai.OpenAI) -> None:
    asked: list[Callable[[], object]] = [
        lambda: client.files.list(),
        lambda: client.batches.list(),
        lambda: client.images.generate(prompt="An alp"),
        lambda: client.audio.speech.create(input="Hi", model="smollm2", voice="ash"),
        lambda: client.moderations.create(input="Hi"),
        lambda: client.conversations.create(),
    ]
    for ask in asked:
        with pytest.raises(openai.NotFoundError, match="there is no '/v1/"):
            ask()
