"""Every checksum again, and what belongs to nothing."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.catalogue import hub_models
from tests.catalogue.hub_models import GGUF, hub_for_this_process
from tests.catalogue.hub_server import HubServer
from tests.catalogue.wheels import entry_for, make_wheel

from alpage.catalogue import store
from alpage.catalogue.check import check_cache, sweep_leftovers
from alpage.catalogue.entries import Entry
from alpage.catalogue.hub_name import require_hub_name
from alpage.catalogue.hub_pull import pull_hub
from alpage.catalogue.lock import locked
from alpage.catalogue.resolve import manifest_of
from alpage.catalogue.store import HubModel


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def tiny(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A catalogue model as its pull leaves it."""
    entry = entry_for(make_wheel(tmp_path / "wheels", GGUF), GGUF)
    monkeypatch.setattr("alpage.catalogue.check.CATALOGUE", {"tiny": entry})
    entry.folder(home).mkdir(parents=True)
    entry.path(home).write_bytes(GGUF)
    manifest = json.dumps(manifest_of(entry, "2026-01-02T03:04:05"))
    (entry.folder(home) / "manifest.json").write_text(manifest)
    return entry


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_for_this_process(tmp_path, monkeypatch) as server:
        server.repo("org/tiny", hub_models.folder())
        server.repo("org/copy", hub_models.folder())
        yield server


def from_hub(text: str, home: Path) -> HubModel:
    return pull_hub(require_hub_name(text), home)


def test_an_empty_cache(home: Path) -> None:
    report = check_cache(home)
    assert (report.files, report.size, report.problems) == (0, 0, ())
    assert sweep_leftovers(home) == 0
    assert not (home / "blobs").exists()


def test_a_sound_cache_is_read_once(home: Path, tiny: Entry, server: HubServer) -> None:
    one = from_hub("org/tiny", home)
    from_hub("org/copy", home)  # shares every blob
    steps: list[tuple[int, int]] = []
    report = check_cache(home, lambda done, total: steps.append((done, total)))
    assert report.problems == ()
    assert report.files == 1 + len(one.files)
    assert report.size == len(GGUF) + one.file_bytes
    assert steps == sorted(steps)
    assert steps[-1] == (report.size, report.size)
    assert sweep_leftovers(home) == 0
    assert check_cache(home).problems == ()


def test_a_catalogue_model_damaged_without_a_change_of_size(home: Path, tiny: Entry) -> None:
    path = tiny.path(home)
    path.write_bytes(GGUF[:-1] + b"!")
    (problem,) = check_cache(home).problems
    assert (problem.kind, problem.path) == ("damaged", path)
    assert hashlib.sha256(GGUF).hexdigest() in problem.text
    assert problem.advice == "alpage pull tiny gets it again"
    path.write_bytes(GGUF[:-1])
    (problem,) = check_cache(home).problems
    assert "bytes and should have" in problem.text
    (path.parent / "manifest.json").unlink()
    (problem,) = check_cache(home).problems
    assert problem.kind == "leftover"
    assert "alpage pull tiny finishes it" in problem.advice


def test_damage_is_reported_for_each_model_that_has_it(home: Path, server: HubServer) -> None:
    one, two = from_hub("org/tiny", home), from_hub("org/copy", home)
    (weights,) = (file for file in one.files if file.path == "model.safetensors")
    blob = store.blob(home, weights.sha256)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    problems = check_cache(home).problems
    assert {problem.kind for problem in problems} == {"damaged"}
    assert {problem.advice for problem in problems} == {
        "alpage pull org/tiny gets it again", "alpage pull org/copy gets it again",
    }  # fmt: skip
    from_hub("org/tiny", home)
    # The repaired blob is a new file: the other name still has its link to the old one.
    assert {problem.path for problem in check_cache(home).problems} == {
        two.folder(home) / "model.safetensors"
    }
    from_hub("org/copy", home)
    assert check_cache(home).problems == ()
    blob.unlink()
    (problem, _) = check_cache(home).problems
    assert "has disappeared" in problem.text


def test_a_manifest_that_cannot_be_read(home: Path, server: HubServer) -> None:
    from_hub("org/tiny", home)
    (home / "blobs" / f"sha256-{'0' * 64}").write_bytes(b"orphan")
    manifest = store.place(require_hub_name("org/tiny"), home) / "manifest.json"
    right = manifest.read_text()
    for wrong in ("", "{}", right.replace('"version": 2', '"version": 9'),
                  right.replace("org/tiny", "org/other"),
                  right.replace('"path": "config.json"', '"path": "../../evil"'),
                  right.replace('"model": ""', '"model": "/etc/passwd"')):  # fmt: skip
        manifest.write_text(wrong)
        (problem,) = check_cache(home).problems
        assert (problem.kind, problem.path) == ("damaged", manifest)
        assert sweep_leftovers(home) == 0  # any blob may be one that it needs
    manifest.write_text(right)
    assert [problem.kind for problem in check_cache(home).problems] == ["orphaned"]


def leave(home: Path) -> dict[str, int]:
    """Every kind of thing that a killed process can leave; path and bytes."""
    made = {
        f"blobs/sha256-{'1' * 64}": 1000, "partial/org--tiny/sha256-x": 200,
        "staging/tiny/tmpabc/half": 30, "hub/org--gone--0123456789/abc/NAME/x": 4,
        "models/tiny/.manifest.json.abc": 5,
    }  # fmt: skip
    for name, size in made.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return made


def test_leftovers_are_found_and_swept(home: Path, tiny: Entry, server: HubServer) -> None:
    from_hub("org/tiny", home)
    before = {path for path in home.rglob("*") if path.is_file()}
    made = leave(home)
    (store.place(require_hub_name("org/tiny"), home) / "0123456789ab").mkdir()
    problems = check_cache(home).problems
    assert len(problems) == len(made) + 1
    assert sum(problem.size for problem in problems) == sum(made.values())
    assert all("alpage rm --leftovers frees it" in problem.advice for problem in problems)
    assert sweep_leftovers(home) == sum(made.values())
    assert check_cache(home).problems == ()
    assert {path for path in home.rglob("*") if path.is_file()} == before


def test_what_a_running_pull_owns_is_left_alone(home: Path, tiny: Entry, server: HubServer) -> None:
    from_hub("org/tiny", home)
    made = leave(home)
    with locked(store.lock_path("org/tiny", home)), locked(home / "locks" / "tiny.lock"):
        assert check_cache(home).problems == ()
        assert sweep_leftovers(home) == 0
    assert sweep_leftovers(home) == sum(made.values())
