"""Names and paths, listing, showing and removing."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from tests.weights.gguf_files import STRING, tiny_model

from alpage.catalogue.entries import CATALOGUE, DEFAULT_MODEL
from alpage.catalogue.listing import list_models, show
from alpage.catalogue.resolve import manifest_of, remove, resolve
from alpage.catalogue.usage import last_use, record_use
from alpage.core.errors import FormatError, NotFoundError, ResourceError, UsageError

ENTRY = CATALOGUE[DEFAULT_MODEL]


def put(home: Path, size: int = ENTRY.file_bytes) -> Path:
    """A sparse file in the default model's place, with its manifest."""
    folder = ENTRY.folder(home)
    folder.mkdir(parents=True)
    with ENTRY.path(home).open("wb") as file:
        file.truncate(size)
    (folder / "manifest.json").write_text(json.dumps(manifest_of(ENTRY, "2026-01-02T03:04:05")))
    return ENTRY.path(home)


def test_every_entry_says_what_must_be_known() -> None:
    assert DEFAULT_MODEL in CATALOGUE
    for name, entry in CATALOGUE.items():
        assert name == entry.name
        for field in dataclasses.fields(entry):
            assert getattr(entry, field.name), field.name
        assert len(entry.sha256) == len(entry.source.wheel_sha256) == 64
        assert entry.lineage.authors
        assert entry.lineage.base_models
        assert entry.lineage.datasets
        assert "/" not in entry.file
        assert "==" in entry.source.requirement


def test_names_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve("smollm2", tmp_path)
    assert "not on this machine yet: alpage pull smollm2 downloads it (93 MB)" in str(caught.value)
    path = put(tmp_path)
    assert resolve("smollm2", tmp_path) == path
    # The catalogue's name wins over a file in the working directory; ./ means the file.
    monkeypatch.chdir(tmp_path)
    Path("smollm2").touch()
    assert resolve("smollm2", tmp_path) == path
    assert resolve("./smollm2", tmp_path) == Path("smollm2")


def test_paths_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "model.gguf"
    file.touch()
    home = tmp_path / "home"
    for given in ("model.gguf", "./model.gguf", str(file), file, "~/model.gguf", str(tmp_path)):
        assert resolve(given, home).exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("smolm2", "there is no model named 'smolm2'; did you mean smollm2"),
        ("zzz", "The catalogue has: smollm2 (alpage pull NAME)"),
        ("zzz", "a hub's model is ORG/NAME, one of Ollama's ollama:NAME"),
        ("org/zzz", "org/zzz is not on this machine: alpage pull org/zzz downloads it from the"),
        ("org/zzz:Q4_K_M", "alpage pull org/zzz:Q4_K_M downloads it from the hub. There is no"),
        ("org/zzz.gguf", "there is no file or folder org/zzz.gguf"),
        ("", "there is no model named ''"),
        ("./zzz", "there is no file or folder zzz"),
        ("zzz.gguf", "there is no file or folder zzz.gguf"),
        ("~nobody-of-that-name/x", "there is no file or folder ~nobody-of-that-name/x"),
        ("../smollm2", "there is no file or folder ../smollm2"),
        (Path("zzz"), "there is no file or folder zzz"),
        ("a\0b", "there is no model named 'a\\x00b'"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_what_does_not_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | Path, message: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(ResourceError) as caught:
        resolve(given, tmp_path)
    assert message in str(caught.value)


def test_listing(tmp_path: Path) -> None:
    (line,) = list_models(tmp_path)
    assert line.card is not None
    assert (line.name, line.kind, line.state) == ("smollm2", "catalogue", "available")
    assert (line.card.path, line.card.file_bytes) == (None, ENTRY.file_bytes)
    put(tmp_path)
    (line,) = list_models(tmp_path)
    assert line.card is not None
    assert (line.state, line.card.path) == ("installed", ENTRY.path(tmp_path))
    assert (line.card.pulled, line.card.used) == ("2026-01-02T03:04:05", None)
    record_use(ENTRY.path(tmp_path), tmp_path)
    (line,) = list_models(tmp_path)
    assert line.card is not None
    assert line.card.used is not None and line.card.used > "2026"
    with ENTRY.path(tmp_path).open("r+b") as file:
        file.truncate(1000)
    (line,) = list_models(tmp_path)
    assert line.state == "damaged"
    assert "it has 1,000 bytes and should have 98,362,432" in (line.problem or "")
    with pytest.raises(FormatError, match="run alpage pull smollm2 again"):
        resolve("smollm2", tmp_path)


def test_showing_an_entry(tmp_path: Path) -> None:
    card = show("smollm2", tmp_path)
    assert (card.installed, card.path, card.pulled) == (False, None, None)
    assert (card.architecture, card.quantization) == ("llama", "Q4_1")
    assert (card.parameters, card.context_length) == (134_515_008, 8192)
    assert card.licence == "Apache-2.0"
    assert card.lineage.base_models == ("HuggingFaceTB/SmolLM2-135M",)
    assert any("QuantFactory" in text for text in card.lineage.contributions)
    put(tmp_path)
    assert show("smollm2", tmp_path).path == ENTRY.path(tmp_path)


def test_showing_a_path(tmp_path: Path) -> None:
    model = tiny_model(tied=False).set("general.license", STRING, "mit")
    path = model.write(tmp_path / "model.gguf")
    card = show(str(path), tmp_path)
    assert (card.name, card.path, card.format) == ("tiny", path, "gguf")
    assert (card.quantization, card.context_length, card.licence) == ("F32", 128, "mit")
    assert card.file_bytes == path.stat().st_size
    assert card.parameters == 2 * 32 * 32 + 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 64)
    json.dumps(dataclasses.asdict(card), default=str)


def test_removing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    with pytest.raises(NotFoundError, match="not on this machine; nothing was removed"):
        remove("smollm2", home)
    path = put(home)
    assert remove("smollm2", home) == ENTRY.file_bytes
    assert not path.parent.exists()
    path = put(home)
    (path.parent / "notes.txt").write_text("mine")
    remove("smollm2", home)
    assert [p.name for p in path.parent.iterdir()] == ["notes.txt"]


def test_removing_never_touches_a_file_given_by_path(tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.touch()
    with pytest.raises(UsageError, match="is a file of yours"):
        remove(str(mine), tmp_path)
    assert mine.exists()
    with pytest.raises(NotFoundError, match="there is no model named"):
        remove("zzz", tmp_path)
    with pytest.raises(NotFoundError, match="there is no model named"):
        remove("../models/smollm2", tmp_path)


def test_a_manifest_of_version_1_as_it_was_written_then(tmp_path: Path) -> None:
    """Caches outlive programs: this is what the first version left on people's disks."""
    put(tmp_path)
    manifest = json.loads((ENTRY.folder(tmp_path) / "manifest.json").read_text())
    assert manifest["version"] == 1
    assert set(manifest) == {"version", "name", "file", "bytes", "sha256", "source", "licence",
                             "lineage", "pulled"}  # fmt: skip
    assert resolve("smollm2", tmp_path) == ENTRY.path(tmp_path)
    assert show("smollm2", tmp_path).pulled == "2026-01-02T03:04:05"


def test_last_use_is_remembered_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path)
    record_use(tmp_path / "elsewhere.gguf", tmp_path)
    assert not (tmp_path / "used").exists()
    record_use(path, tmp_path)
    os.utime(next((tmp_path / "used").iterdir()), (0, 86400))
    assert last_use(path, tmp_path) == "1970-01-02T00:00:00+00:00"
    remove("smollm2", tmp_path)
    assert last_use(path, tmp_path) is None

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    record_use(path, tmp_path)
    assert last_use(path, tmp_path) is None
