"""Models in a local Ollama store: found by name, opened in place, never touched."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.hub_models import GGUF
from tests.catalogue.ollama_store import OllamaStore

from alpage.catalogue.listing import card_text, list_models, show
from alpage.catalogue.ollama import find_ollama, list_ollama
from alpage.catalogue.resolve import remove, resolve
from alpage.core.errors import AlpageError, FormatError, NotFoundError, UnsupportedError, UsageError
from alpage.core.paths import ollama_models
from alpage.weights.source import open_model

LIBRARY = "registry.ollama.ai/library"


@pytest.fixture
def ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OllamaStore:
    ours = OllamaStore(tmp_path / "ollama")
    monkeypatch.setenv("OLLAMA_MODELS", str(ours.models))
    ours.model(
        f"{LIBRARY}/tiny/latest", GGUF, template="{{ .Prompt }}", license="Do what you like.\nYes.",
        params='{"stop": ["<|eot|>", "\\u001b[2J"], "temperature": 0.5, "num_ctx": 4096}',
        system="Be kind.",
    )  # fmt: skip
    return ours


@pytest.mark.parametrize(
    ("place", "names"),
    [
        (f"{LIBRARY}/tiny/latest", ["tiny", "tiny:latest", "library/tiny",
                                    f"{LIBRARY}/tiny:latest"]),
        (f"{LIBRARY}/llama3.2/1b-instruct-q4_K_M", ["llama3.2:1b-instruct-q4_K_M"]),
        ("registry.ollama.ai/someone/model/v1", ["someone/model:v1"]),
        ("hf.co/org/Name-GGUF/Q4_K_M", ["hf.co/org/Name-GGUF:Q4_K_M"]),
        ("localhost:5000/ns/m/latest", ["localhost:5000/ns/m", "localhost:5000/ns/m:latest"]),
    ],
)  # fmt: skip
def test_names(ollama: OllamaStore, tmp_path: Path, place: str, names: list[str]) -> None:
    ollama.model(place, GGUF)
    for name in names:
        path = resolve(f"ollama:{name}", tmp_path / "home")
        assert path.parent == ollama.models / "blobs"
        assert path.read_bytes() == GGUF


@pytest.mark.parametrize(
    "name",
    ["", ":", ":latest", "a:", "/a", "a/", "../a", "a/../b:c", "a/b/c/d", "..", "a:..", "a:b/c",
     "a:b:c", "a b", "a\0b", "a\n", "x" * 200, "../../etc/passwd:x", "a/..", "..:../a", "C:\\a"],
)  # fmt: skip
def test_what_is_no_name(ollama: OllamaStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a model in Ollama's store"):
        resolve(f"ollama:{name}", tmp_path)


def test_a_model_is_shown_and_opened_where_it_is(ollama: OllamaStore, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in ollama.models.rglob("*")}
    home = tmp_path / "home"
    with open_model(resolve("ollama:tiny", home)) as source:
        assert source.config.dim == 32
    card = show("ollama:tiny", home)
    assert (card.name, card.licence, card.source) == (
        "tiny", "Do what you like.", "Ollama's store, as ollama:tiny:latest",
    )  # fmt: skip
    details = list(card.details)
    assert ("ollama stop", "'<|eot|>'") in details
    assert ("ollama temperature", "0.5") in details
    assert ("ollama system", "Be kind.") in details
    assert any(name == "ollama template" and "not run" in text for name, text in details)
    assert "\x1b" not in str(details)
    assert card_text("ollama:tiny", home) == "Do what you like.\nYes."
    assert {path: path.stat().st_mtime_ns for path in ollama.models.rglob("*")} == before
    assert not home.exists()


def test_listed_only_when_asked(ollama: OllamaStore, tmp_path: Path) -> None:
    ollama.model("hf.co/org/Name/Q8_0", GGUF)
    (ollama.models / "manifests" / LIBRARY / "tiny" / ".DS_Store").write_text("")
    (ollama.models / "manifests" / LIBRARY / "tiny" / "broken").write_text("{")
    assert {line.kind for line in list_models(tmp_path)} == {"catalogue"}
    found = {line.name: line for line in list_models(tmp_path, ollama=True)}
    card = found["ollama:tiny:latest"].card
    assert card is not None
    assert (card.quantization, card.file_bytes) == ("F32", len(GGUF))
    assert found["ollama:tiny:broken"].state == "damaged"
    assert "ollama:hf.co/org/Name:Q8_0" in found
    assert len(found) == 4


def test_alpage_removes_nothing_of_ollamas(ollama: OllamaStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ollama:tiny belongs to Ollama: ollama rm tiny"):
        remove("ollama:tiny", tmp_path)
    assert resolve("ollama:tiny", tmp_path).exists()


def test_what_is_not_there(ollama: OllamaStore, tmp_path: Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with pytest.raises(NotFoundError, match=r"has no ollama:nothing; it has ollama:tiny:latest"):
        resolve("ollama:nothing", tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(NotFoundError, match=r"there is no Ollama store at .*nowhere; OLLAMA_MODEL"):
        resolve("ollama:tiny", tmp_path)
    assert list(list_ollama(ollama_models())) == []


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    models = tmp_path / ".ollama" / "models"
    OllamaStore(models).model(f"{LIBRARY}/tiny/latest", GGUF)
    assert ollama_models() == models
    assert find_ollama("ollama:tiny", models).size == len(GGUF)


def manifest_with(**changes: Any) -> Any:
    def change(store: OllamaStore) -> list[dict[str, Any]]:
        return [store.layer("model", GGUF) | changes]

    return change


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (manifest_with(digest="sha256:../../../../etc/passwd"), FormatError, "is no SHA-256 diges"),
        (manifest_with(digest="sha256:" + "A" * 64), FormatError, "is no SHA-256 digest"),
        (manifest_with(digest="md5:" + "a" * 32), FormatError, "is no SHA-256 digest"),
        (manifest_with(digest=None), FormatError, "is no SHA-256 digest"),
        (manifest_with(digest="sha256:" + "a" * 64), FormatError, "lacks its file .* ollama pull"),
        (manifest_with(size=1), FormatError, "bytes and should have 1; remove the model with olla"),
        (manifest_with(size="1"), FormatError, "size should be a whole number"),
        (manifest_with(mediaType=7), FormatError, "mediaType should be text"),
        (lambda store: [], FormatError, "it has no list of layers"),
        (lambda store: [7], FormatError, "a layer is no object"),
        (lambda store: [store.layer("template", b"x")], UnsupportedError, "is not one GGUF model"),
        (lambda store: [store.layer("model", b"a"), store.layer("model", b"b")], UnsupportedError,
         "is not one GGUF model"),
        (lambda store: [store.layer("model", GGUF), store.layer("adapter", b"x")],
         UnsupportedError, r"ollama:bad:latest has an adapter \(LoRA\) beside its model"),
        (lambda store: [store.layer("model", GGUF), store.layer("projector", b"x")],
         UnsupportedError, r"has a projector \(vision\) beside its model"),
        (lambda store: [store.layer("model", GGUF), store.layer("params", b"[")], FormatError,
         "is not valid JSON"),
        (lambda store: [store.layer("model", GGUF), store.layer("license", b"\xff")], FormatError,
         "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_damaged_manifests(
    ollama: OllamaStore, tmp_path: Path, change: Any, kind: type[AlpageError], message: str
) -> None:
    ollama.put(f"{LIBRARY}/bad/latest", change(ollama))
    with pytest.raises(kind, match=message):
        resolve("ollama:bad", tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"{}"])
def test_manifests_that_are_none(ollama: OllamaStore, tmp_path: Path, content: bytes) -> None:
    (ollama.models / "manifests" / LIBRARY / "tiny" / "latest").write_bytes(content)
    with pytest.raises(FormatError):
        resolve("ollama:tiny", tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
@pytest.mark.parametrize("what", ["manifest", "blob"])
def test_links_do_not_lead_out_of_the_store(ollama: OllamaStore, tmp_path: Path, what: str) -> None:
    secret = tmp_path / "secret"
    manifest = ollama.models / "manifests" / LIBRARY / "tiny" / "latest"
    path = manifest if what == "manifest" else find_ollama("ollama:tiny", ollama.models).path
    path.rename(secret)
    path.symlink_to(secret)
    with pytest.raises(FormatError, match="is a link that leads out of Ollama's store"):
        resolve("ollama:tiny", tmp_path)


def test_a_store_that_is_itself_a_link(
    ollama: OllamaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other disk").symlink_to(ollama.models, target_is_directory=True)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "other disk"))
    assert resolve("ollama:tiny", tmp_path).read_bytes() == GGUF


@pytest.mark.skipif(os.name == "nt", reason="no such file name there")
def test_blobs_as_early_versions_named_them(ollama: OllamaStore, tmp_path: Path) -> None:
    for blob in (ollama.models / "blobs").iterdir():
        blob.rename(blob.with_name(blob.name.replace("sha256-", "sha256:")))
    assert resolve("ollama:tiny", tmp_path).read_bytes() == GGUF


def test_every_cut_of_a_manifest(ollama: OllamaStore, tmp_path: Path) -> None:
    manifest = ollama.models / "manifests" / LIBRARY / "tiny" / "latest"
    whole = manifest.read_bytes()
    assert json.loads(whole)["schemaVersion"] == 2
    for end in range(len(whole)):
        manifest.write_bytes(whole[:end])
        with pytest.raises(FormatError):
            resolve("ollama:tiny", tmp_path)
