"""Models, counted tokens, versions and what is not there, through the anthropic client."""

import dataclasses
import re
from typing import Any

import anthropic
import httpx
import openai
import pytest
from tests.server.anthropic.asking import HELLO, NEEDS_TOOL, WEATHER
from tests.server.serving import serving

from alpage import Llama
from alpage.server.app import Surroundings
from alpage.server.backends.local import LocalModel
from alpage.server.backends.protocol import ModelCard
from alpage.server.pool import Pool


@pytest.mark.client("anthropic", "models: list and retrieve")
def test_models(claude: anthropic.Anthropic, client: openai.OpenAI) -> None:
    (model,) = claude.models.list()
    assert model == claude.models.retrieve("smollm2")
    assert (model.type, model.id, model.display_name) == ("model", "smollm2", "smollm2")
    assert (model.lifecycle, model.max_input_tokens) == ("active", 512)
    assert model.created_at.year > 2020
    assert [found.id for found in claude.beta.models.list()] == ["smollm2"]
    # Who names no version of Anthropic's API is answered in OpenAI's shape at the same path.
    (other,) = client.models.list()
    assert other.object == "model"
    with pytest.raises(anthropic.NotFoundError, match="no model 'gone' here") as caught:
        claude.models.retrieve("gone")
    assert caught.value.type == "not_found_error"
    assert caught.value.request_id is not None


@pytest.mark.client("anthropic", "models: pages")
def test_models_come_in_pages(llm: Llama) -> None:
    names = [f"model{number}" for number in range(5)]
    pool = Pool({name: LocalModel(name, llm) for name in names})
    with (
        serving(Surroundings(pool=pool, local=True)) as running,
        anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0) as client,
    ):
        page = client.models.list(limit=2)
        assert [model.id for model in page.data] == names[:2]
        assert (page.first_id, page.last_id, page.has_more) == ("model0", "model1", True)
        assert [model.id for model in client.models.list(limit=2)] == names
        before = client.models.list(limit=2, before_id="model3")
        assert [model.id for model in before.data] == names[1:3]
        assert before.has_more
        last = client.models.list(after_id="model4")
        assert (last.data, last.first_id, last.has_more) == ([], None, False)
        assert client.models.list(lifecycle=["retired"]).data == []
        assert len(client.models.list(lifecycle=["active", "retired"]).data) == 5
        for wrong, message in (
            ({"limit": 0}, "limit is '0': it must be a number from 1 to 1000"),
            ({"limit": "x"}, "limit is 'x'"),
            ({"after_id": "gone"}, "after_id is 'gone', which is no model here"),
            ({"after_id": "model1", "before_id": "model2"}, "exclude each other"),
            ({"lifecycle": "old"}, "lifecycle is 'old'"),
            ({"order": "up"}, "there is no query parameter 'order' here"),
        ):
            with pytest.raises(anthropic.BadRequestError, match=re.escape(message)):
                client.models.list(extra_query=wrong)


@pytest.mark.client("anthropic", "messages: count_tokens")
def test_tokens_are_counted_exactly(claude: anthropic.Anthropic) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Hello"}]
    asked: tuple[dict[str, Any], ...] = (
        {"messages": HELLO},
        {"messages": begun, "system": "Be kind."},
        {"messages": NEEDS_TOOL, "tools": [WEATHER]},
        {"messages": NEEDS_TOOL, "tools": [WEATHER], "tool_choice": {"type": "none"}},
    )
    counts = []
    for fields in asked:
        counted = claude.messages.count_tokens(model="smollm2", **fields).input_tokens
        used = claude.messages.create(model="smollm2", max_tokens=1, **fields).usage
        assert used.cache_read_input_tokens is not None
        assert counted == used.input_tokens + used.cache_read_input_tokens
        assert counted == claude.beta.messages.count_tokens(model="smollm2", **fields).input_tokens
        counts.append(counted)
    assert len(set(counts)) == len(counts)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens: there is no such field"):
        claude.messages.count_tokens(model="smollm2", messages=HELLO, extra_body={"max_tokens": 1})


class Elsewhere(LocalModel):
    """A model that says of itself that another server runs it."""

    @property
    def card(self) -> ModelCard:
        return dataclasses.replace(super().card, kind="upstream")


def test_what_another_server_cannot_do_is_refused(llm: Llama) -> None:
    pool = Pool({"far": Elsewhere("far", llm)})
    begun: list[Any] = [*HELLO, {"role": "assistant", "content": "Hello"}]
    with (
        serving(Surroundings(pool=pool, local=True)) as running,
        anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0) as client,
    ):
        assert client.messages.create(model="far", messages=HELLO, max_tokens=1).content
        with pytest.raises(anthropic.BadRequestError, match="its tokens cannot be counted here"):
            client.messages.count_tokens(model="far", messages=HELLO)
        with pytest.raises(anthropic.BadRequestError, match="cannot begin its answer"):
            client.messages.create(model="far", messages=begun, max_tokens=1)


def ask(claude: anthropic.Anthropic, **headers: str) -> anthropic.types.Message:
    return claude.messages.create(
        model="smollm2",
        messages=HELLO,
        max_tokens=1,
        extra_headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def test_versions_and_features_of_the_api(claude: anthropic.Anthropic, url: str) -> None:
    for version in ("2023-06-01", "2026-10-21"):
        ask(claude, anthropic_version=version)
    with pytest.raises(anthropic.BadRequestError, match="anthropic-version is '2023-01-01'"):
        ask(claude, anthropic_version="2023-01-01")
    body = {"model": "smollm2", "messages": HELLO, "max_tokens": 1}
    assert httpx.post(f"{url}/v1/messages", json=body).status_code == 200  # with none
    ask(claude, anthropic_beta="prompt-caching-2024-07-31, interleaved-thinking-2025-05-14,")
    for wrong in ("context-1m-2025-08-07", "prompt-caching-2024-07-31,new-thing-2031-01-01"):
        name = wrong.rpartition(",")[2]
        with pytest.raises(anthropic.BadRequestError, match=f"does not support '{name}'"):
            ask(claude, anthropic_beta=wrong)
    with pytest.raises(anthropic.BadRequestError, match="anthropic-beta has 100 names"):
        ask(claude, anthropic_beta=",".join(["skills"] * 100))
    with pytest.raises(anthropic.BadRequestError, match="this server has no workspaces"):
        claude.messages.create(**body, workspace_id="wrkspc_1")  # type: ignore[call-overload]
    ask(claude, anthropic_user_profile_id="someone")
    with pytest.raises(anthropic.BadRequestError, match="no query parameter 'fast' here"):
        claude.messages.create(**body, extra_query={"fast": "1"})  # type: ignore[call-overload]


@pytest.mark.client("anthropic", "batches, files and skills", refused=True)
def test_what_is_not_there(claude: anthropic.Anthropic, url: str) -> None:
    for missing in (
        claude.messages.batches.list,
        claude.beta.files.list,
        claude.beta.skills.list,
    ):
        with pytest.raises(anthropic.NotFoundError, match="there is no '/v1/") as caught:
            missing()
        assert caught.value.type == "not_found_error"
        assert caught.value.request_id is not None
    with pytest.raises(anthropic.NotFoundError, match="no model 'claude' here"):
        claude.messages.create(model="claude", messages=HELLO, max_tokens=1)
    refused = httpx.get(f"{url}/v1/messages")
    assert refused.status_code == 405
    assert refused.json()["error"]["type"] == "invalid_request_error"
    # What the guard refuses has no call yet, and so no name.
    foreign = httpx.post(f"{url}/v1/messages", content=b"{}", headers={"content-type": "a/b"})
    assert (foreign.status_code, foreign.json()["request_id"]) == (415, None)


def test_the_schema_describes_the_routes(url: str) -> None:
    schema = httpx.get(f"{url}/openapi.json").json()
    for path, name in (
        ("/v1/messages", "MessageRequest"),
        ("/v1/messages/count_tokens", "CountRequest"),
    ):
        operation = schema["paths"][path]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(f"/{name}")
        refusal = operation["responses"]["400"]["content"]["application/json"]
        assert refusal["schema"]["$ref"].endswith("/MessageError")
        assert schema["components"]["schemas"][name]["additionalProperties"] is False
    assert (
        "text/event-stream"
        in schema["paths"]["/v1/messages"]["post"]["responses"]["200"]["content"]
    )
