"""What the ollama client is told about models."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import pytest
from starlette.datastructures import Headers
from tests.server.serving import serving

from alpage import Llama, __version__
from alpage.server.accounts.caller import ANYONE
from alpage.server.app import Surroundings
from alpage.server.call import Call
from alpage.server.calls import OpenDoor
from alpage.server.pool import Pool
from alpage.weights.source import open_model


@pytest.mark.client("ollama", "list")
def test_list(asking: ollama.Client, llm: Llama) -> None:
    (model,) = asking.list().models
    assert (model.model, model.size) == ("smollm2", llm.model.weight_bytes)
    assert model.details is not None
    assert (model.details.format, model.details.family) == ("gguf", "llama")
    assert model.details.families == ["llama"]
    assert model.details.parameter_size == "134.52M"
    assert model.details.quantization_level == "Q4_1"
    assert model.digest is not None and len(model.digest) == 64
    assert model.modified_at is not None and model.modified_at.year >= 2026


@pytest.mark.client("ollama", "ps")
def test_running(asking: ollama.Client, llm: Llama) -> None:
    (listed,) = asking.list().models
    (model,) = asking.ps().models
    assert (model.name, model.model, model.digest) == ("smollm2", "smollm2", listed.digest)
    assert model.size is not None and model.size > llm.model.weight_bytes  # with its cache
    assert model.size_vram == 0
    assert model.context_length == llm.context
    assert model.expires_at is not None


@pytest.mark.client("ollama", "show")
def test_show_says_what_the_file_says(
    asking: ollama.Client, llm: Llama, smollm2_path: Path
) -> None:
    shown = asking.show("smollm2:latest")
    with open_model(smollm2_path) as source:
        metadata, template = source.gguf_metadata, source.chat_template
        assert metadata is not None
        assert shown.modelinfo is not None
        same = set(shown.modelinfo) - {"general.parameter_count"}
        assert {key: shown.modelinfo[key] for key in same} == {key: metadata[key] for key in same}
        assert shown.modelinfo["general.parameter_count"] == source.config.parameter_count
    assert len(same) > 12
    assert shown.template == template
    assert (shown.license, shown.capabilities) == (
        "apache-2.0",
        ["completion", "tools", "embedding"],
    )
    assert shown.modelfile is not None and shown.modelfile.startswith("FROM smollm2\nTEMPLATE ")
    assert shown.parameters is not None
    assert dict(row.split() for row in shown.parameters.splitlines()) == {
        "temperature": "0.8",
        "top_k": "40",
        "top_p": "0.9",
        "num_ctx": "512",
    }
    with pytest.raises(ollama.ResponseError, match="no model 'other' here") as caught:
        asking.show("other")
    assert caught.value.status_code == 404


def test_the_older_name_of_a_name(url: str) -> None:
    answer = httpx.post(f"{url}/api/show", json={"name": "smollm2"})
    assert answer.json()["details"]["quantization_level"] == "Q4_1"
    nameless = httpx.post(f"{url}/api/show", json={})
    assert (nameless.status_code, list(nameless.json())) == (400, ["error"])
    wordy = httpx.post(f"{url}/api/show", json={"model": "smollm2", "verbose": True})
    assert wordy.json()["error"].startswith("verbose is true: supported is false")


def test_version(url: str) -> None:
    assert httpx.get(f"{url}/api/version").json() == {"version": __version__}


@pytest.mark.client("ollama", "delete, copy, create, push, blobs", refused=True)
def test_a_store_of_models_is_not_changed(asking: ollama.Client, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"x")
    for refused, instead in (
        (lambda: asking.delete("smollm2"), "/api/delete is not supported: alpage rm NAME"),
        (lambda: asking.copy("smollm2", "other"), "/api/copy is not supported"),
        (lambda: asking.create("other", from_="smollm2"), "/api/create is not sup.*alpage convert"),
        (lambda: asking.push("smollm2"), "/api/push is not supported"),
        (lambda: asking.create_blob(blob), "/api/blobs/sha256:.* is not supported: alpage pull"),
    ):
        with pytest.raises(ollama.ResponseError, match=instead) as caught:
            refused()
        assert caught.value.status_code == 400


class OneModelOnly(OpenDoor):
    """Everyone may ask the model "one", and no other."""

    async def enter(self, call: Call, path: str, headers: Headers) -> None:
        call.caller = dataclasses.replace(ANYONE, models=frozenset({"one"}))


@pytest.fixture
def restricted(llm: Llama) -> Iterator[ollama.Client]:
    pool = Pool.of({"one": llm, "two": llm})
    with (
        serving(Surroundings(pool=pool, local=True, door=OneModelOnly())) as running,
        ollama.Client(running.url) as client,
    ):
        yield client


def test_others_models_are_not_told(restricted: ollama.Client) -> None:
    assert [model.model for model in restricted.list().models] == ["one"]
    assert [model.model for model in restricted.ps().models] == ["one"]
    assert restricted.generate("one", "Hi", options={"num_predict": 1}).done
    for refused in (
        lambda: restricted.show("two"),
        lambda: restricted.generate("two", "Hi"),
        lambda: restricted.embed("two:latest", "Hi"),
    ):
        with pytest.raises(ollama.ResponseError, match="this server has: one") as caught:
            refused()
        assert caught.value.status_code == 404


@pytest.mark.client("ollama", "names: models of an Ollama store without a prefix")
def test_names_of_a_store_of_ollamas(llm: Llama) -> None:
    pool = Pool.of({"ollama:one": llm, "ollama:two:8b": llm, "three": llm, "ollama:three": llm})
    with (
        serving(Surroundings(pool=pool, local=True)) as running,
        ollama.Client(running.url) as client,
    ):
        for name in ("one", "one:latest", "ollama:one", "two:8b", "three"):
            assert client.generate(name).done_reason == "load"
        for name in ("two", "two:latest", "one:8b"):
            with pytest.raises(ollama.ResponseError, match=f"no model '{name[:3]}"):
                client.generate(name)
        assert client.show("three").modelfile == client.show("three:latest").modelfile
        assert str(client.show("three").modelfile).startswith("FROM three\n")
