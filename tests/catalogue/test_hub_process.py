"""Pulls from a hub in processes of their own: at once, killed, interrupted, on a full disk."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.catalogue import hub_models
from tests.catalogue.hub_models import hub_for_this_process
from tests.catalogue.hub_server import HubServer
from tests.catalogue.test_hub_pull import FOLDER_FILES, blobs, files_in, pull

from alpage.catalogue.check import check_cache
from alpage.catalogue.resolve import resolve
from alpage.core.errors import NotFoundError

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_for_this_process(tmp_path, monkeypatch) as server:
        server.repo("org/tiny", hub_models.folder())
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@contextlib.contextmanager
def process(server: HubServer, folder: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A pull in another process; killed at the end."""
    environment = {**os.environ, **server.environment(folder)}
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.catalogue.hub_process", *arguments],
        cwd=CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_two_pulls_at_once_download_once(server: HubServer, home: Path, tmp_path: Path) -> None:
    server.wait_at_half = threading.Event()
    with (
        process(server, tmp_path, "org/tiny", str(home)) as first,
        process(server, tmp_path, "org/tiny", str(home)) as second,
    ):
        assert server.halfway.wait(60)
        time.sleep(1)
        server.wait_at_half.set()
        answers = [child.communicate(timeout=120)[0].strip() for child in (first, second)]
    assert answers == [str(resolve("org/tiny", home))] * 2
    assert len([a for a in server.fetched("model.safetensors") if "cdn" in a.path]) == 1
    assert check_cache(home).problems == ()


def test_two_repositories_with_one_content_at_once(
    server: HubServer, home: Path, tmp_path: Path
) -> None:
    server.repo("other/copy", hub_models.folder())
    with (
        process(server, tmp_path, "org/tiny", str(home)) as first,
        process(server, tmp_path, "other/copy", str(home)) as second,
    ):
        for child in (first, second):
            child.communicate(timeout=120)
            assert child.returncode == 0
    assert check_cache(home).problems == ()
    assert len(blobs(home)) == len(FOLDER_FILES)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_end_in_the_middle_and_another_pull(
    server: HubServer, home: Path, tmp_path: Path, how: signal.Signals
) -> None:
    size = len(hub_models.folder()["model.safetensors"])
    with process(server, tmp_path, "org/tiny", str(home)) as child:
        hold = threading.Event()
        server.cut = lambda path, start: _hold_at(server, path, hold)
        assert server.halfway.wait(60)
        partial = home / "partial" / "org--tiny"
        _until(lambda: any(p.stat().st_size >= size // 2 for p in partial.glob("sha256-*")))
        child.send_signal(how)
        child.communicate(timeout=60)
        assert child.returncode != 0
    server.wait_at_half = None
    server.cut = lambda path, start: None
    hold.set()
    with pytest.raises(NotFoundError):
        resolve("org/tiny", home)
    server.asked.clear()
    pull("org/tiny", home)
    (again,) = [a for a in server.fetched("model.safetensors") if "cdn" in a.path]
    assert again.range == f"bytes={size // 2}-"
    assert check_cache(home).problems == ()


def _hold_at(server: HubServer, path: str, hold: threading.Event) -> None:
    if path == "model.safetensors":
        server.wait_at_half = hold


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within 30 seconds")


@pytest.mark.parametrize("limit", [100, 600, 20_000])
def test_a_disk_that_fills_up(server: HubServer, home: Path, tmp_path: Path, limit: int) -> None:
    """The operating system refuses bytes: of the configuration, of the weights."""
    with process(server, tmp_path, "org/tiny", str(home), str(limit)) as child:
        out = child.communicate(timeout=120)[0]
        assert child.returncode == 1
    assert out.startswith("StorageError: cannot ")
    assert "the file would be larger than is allowed here" in out
    assert files_in(home) == set()


def test_a_disk_that_is_really_full(server: HubServer, tmp_path: Path) -> None:
    """A small file system of its own, in a mount namespace that ends with the process."""
    home = tmp_path / "home"
    home.mkdir()
    space = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f'mount -t tmpfs -o size=60k tmpfs "{home}"'
    if not shutil.which("unshare") or subprocess.run([*space, "sh", "-c", mount]).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    # What the hub says is small passes the check made before.
    code = (
        "import shutil, sys; from tests.catalogue import hub_process\n"
        "class Free: free = 1 << 40\n"
        "shutil.disk_usage = lambda path: Free\n"
        "sys.exit(hub_process.main(sys.argv[1:]))"
    )
    run = f'"{sys.executable}" -c "$CODE" org/tiny "{home}"'
    listing = f'find "{home}" -type f -not -path "*/locks/*"'
    done = subprocess.run(
        [*space, "sh", "-c", f"{mount} && {run}; echo $?; {listing}"], cwd=CHECKOUT, text=True,
        env={**os.environ, **server.environment(tmp_path), "CODE": code},
        stdout=subprocess.PIPE, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("StorageError: cannot write")
    assert "the disk is full" in done.stdout
    assert done.stdout.endswith("\n1\n")  # and no file is left
