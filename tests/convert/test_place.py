"""A target appears whole or not at all, and is never the source."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.convert import models

from alpage.convert import place
from alpage.convert.convert import convert
from alpage.convert.place import staged_files, staged_folder, synced
from alpage.core.errors import StorageError, UsageError
from alpage.weights.source import open_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.hf_model(tmp_path / "in")


def run(model: Path, target: Path, layout: str = "hf", force: bool = False) -> None:
    with open_model(model) as source:
        convert(source, target, layout, force=force)  # type: ignore[arg-type]


def test_what_exists_is_replaced_only_on_demand(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    run(model, target)
    (target / "old.txt").write_text("old")
    with pytest.raises(UsageError, match="--force replaces it"):
        run(model, target)
    assert (target / "old.txt").exists()
    run(model, target, "meta", force=True)
    assert not (target / "old.txt").exists() and (target / "params.json").exists()
    with pytest.raises(UsageError, match="is a folder, and a file cannot"):
        (tmp_path / "dir.gguf").mkdir()
        run(model, tmp_path / "dir.gguf", "gguf", force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file, and a folder cannot"):
        run(model, tmp_path / "file", force=True)


def test_a_folder_of_other_things_is_never_replaced(model: Path, tmp_path: Path) -> None:
    for name in ("sub/x", "photo.jpg", "code.py"):
        target = tmp_path / name.replace("/", "-").replace(".", "-")
        (target / name).parent.mkdir(parents=True)
        (target / name).write_text("mine")
        with pytest.raises(UsageError, match="no part of a model"):
            run(model, target, force=True)
        assert (target / name).read_text() == "mine"


def test_the_source_is_never_the_target(model: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "m" / "x.gguf"
    run(model, gguf, "gguf")
    (tmp_path / "link").symlink_to(model)
    os.link(gguf, tmp_path / "hard.gguf")
    for source, target, layout in (
        (model, model, "hf"),
        (model, model / "inside", "hf"),
        (model, tmp_path / "link" / "inside", "meta"),
        (model, tmp_path, "hf"),
        (gguf, gguf, "gguf"),
        (gguf, gguf.parent, "hf"),
        (gguf, tmp_path / "hard.gguf", "gguf"),
    ):
        with pytest.raises(UsageError, match=r"lies in it|being converted"):
            run(source, target, layout, force=True)
    with open_model(model), open_model(gguf):
        pass


def test_an_interrupted_folder_leaves_nothing(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    run(model, target)
    before = sorted(path.name for path in target.iterdir())
    inode = (target / "config.json").stat().st_ino

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    for layout in ("hf", "meta", "gguf"):
        with open_model(model) as source, pytest.raises(KeyboardInterrupt):
            convert(source, target, layout, force=True, progress=stop)
    assert sorted(path.name for path in target.iterdir()) == before
    assert (target / "config.json").stat().st_ino == inode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("layout", ["hf", "meta", "gguf"])
def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path, layout: str) -> None:
    """A limit on the size of files stands for the disk: the write fails in the middle."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000));"
        "from alpage.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["convert", str(model), str(tmp_path / "out"), "--to", layout]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr and "larger than is allowed" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_folder_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        run(model, tmp_path / "file" / "out")


def test_files_move_in_together(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "full").write_text("x")  # a folder that a file cannot replace
    with (
        pytest.raises(StorageError),
        staged_files([tmp_path / "a", tmp_path / "b"]) as places,
    ):
        for place in places:
            place.write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_a_folder_that_cannot_move_in_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("x")
    real = Path.replace

    def refuse(self: Path, to: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "denied")
        return real(self, to)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="permission"), staged_folder(target) as folder:
        (folder / "new-file").write_text("y")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (target / "old").read_text() == "x"


def test_parts_of_a_gguf_file_go_to_a_folder(model: Path, tmp_path: Path) -> None:
    """Beside one another they could replace others' files, and the source's own parts."""
    with open_model(model) as source, pytest.raises(UsageError, match="need a folder"):
        convert(source, tmp_path / "x.gguf", "gguf", shard_bytes=1000)


def test_what_a_sync_finds_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of a failed write once, perhaps long before the last sync."""
    calls = []

    def refuse_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(place, "SYNC_BYTES", 1000)
    monkeypatch.setattr(os, "fsync", refuse_once)
    with pytest.raises(OSError, match="Input/output"), synced(tmp_path / "a") as file:
        file.write(bytes(1500))
    assert len(calls) == 1
    with synced(tmp_path / "b") as file:
        for i in range(100):
            file.write(bytes([i]) * 99)
    assert len(calls) > 2
    assert (tmp_path / "b").read_bytes() == b"".join(bytes([i]) * 99 for i in range(100))
