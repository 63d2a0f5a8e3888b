"""POST /api/pull: a model of Alpage's catalogue or of a hub, with progress in Ollama's lines.

A pull runs in a thread of its own. Requests for the same model share it; when the last of them
leaves it ends, and what has come of a hub's files is kept for the next.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from alpage.catalogue.entries import CATALOGUE, find_entry
from alpage.catalogue.hub_name import hub_name
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.server.errors import RequestError
from alpage.server.events import line
from alpage.server.ollama.fields import only
from alpage.server.ollama.models import Naming
from alpage.server.ollama.names import pulled_name
from alpage.server.openai.fields import Refused

_MOST_AT_ONCE = 4
_SHORT = 12
_SUCCESS = {"status": "success"}


class OllamaPull(Naming):
    """The body of POST /api/pull."""

    stream: bool | None = None
    insecure: Annotated[bool | None, only(False)] = None
    username: Refused = None
    password: Refused = None

    @property
    def streams(self) -> bool:
        """Whether progress is told."""
        return self.stream is not False


class _AbandonedError(BaseException):
    """Nobody waits for a pull any more; like Ctrl-C it leaves what the next pull can use."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is, in bytes. `digest`: of the weights, or the commit of a hub's model."""

    digest: str
    done: int
    total: int

    def told(self) -> dict[str, Any]:
        """Ollama's line about it."""
        short = self.digest.partition(":")[2][:_SHORT]
        return {
            "status": f"pulling {short}",
            "digest": self.digest,
            "total": self.total,
            "completed": self.done,
        }


class Pulls:
    """The pulls of one server. Only the event loop touches it."""

    def __init__(self, home: Path | None) -> None:
        self._home = home
        self._running: dict[str, _Pull] = {}

    async def progress(self, name: str) -> AsyncGenerator[Progress, None]:
        """Pull a model, with others who want it: each news; an AlpageError if it fails."""
        self._running = {key: pull for key, pull in self._running.items() if pull.open}
        if name not in self._running:
            if len(self._running) >= _MOST_AT_ONCE:
                raise RequestError(
                    f"{_MOST_AT_ONCE} models are being pulled already; ask again later", status=503
                )
            home = self._home or cache_home(Settings.from_environment())
            self._running[name] = _Pull(name, home)
        async with contextlib.aclosing(self._running[name].progress()) as news:
            async for progress in news:
                yield progress


class _Pull:
    """One pull: a thread, and the requests that wait for it in the event loop."""

    def __init__(self, name: str, home: Path) -> None:
        self._name = name
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._progress: Progress | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._abandoned = threading.Event()
        self._waiting: set[asyncio.Event] = set()
        self._thread = threading.Thread(target=self._run, name="alpage pull", daemon=True)

    @property
    def open(self) -> bool:
        """Whether another request can wait for it too."""
        return not self._ended and not self._abandoned.is_set()

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """Begin, or join in: each news; raises what the pull failed with."""
        if not self._thread.ident:
            self._thread.start()
        news = asyncio.Event()
        self._waiting.add(news)
        told = None
        try:
            while True:
                if self._progress is not None and self._progress != told:
                    told = self._progress
                    yield told
                elif self._ended:
                    break
                else:
                    await news.wait()
                    news.clear()
            if self._error is not None:
                raise self._error
        finally:
            self._waiting.discard(news)
            if not self._waiting:
                self._abandoned.set()

    def _run(self) -> None:
        """In the thread: pull, and tell the loop how it ended."""
        error: BaseException | None = None
        try:
            pull_named(self._name, self._home, self._tell)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._end, error)

    def _tell(self, progress: Progress) -> None:
        if self._abandoned.is_set():
            raise _AbandonedError
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._note, progress)

    def _note(self, progress: Progress) -> None:
        self._progress = progress
        for news in self._waiting:
            news.set()

    def _end(self, error: BaseException | None) -> None:
        self._ended = True
        self._error = error
        for news in self._waiting:
            news.set()


def pull_named(name: str, home: Path, tell: Callable[[Progress], None]) -> None:
    """Pull a model of the catalogue or of a hub; what `tell` raises ends it."""
    # Few servers pull: what downloads is loaded here.
    from alpage.catalogue.hub_pull import Offer, pull_hub
    from alpage.catalogue.pull import pull_entry

    if name in CATALOGUE:
        entry = CATALOGUE[name]
        digest, total = f"sha256:{entry.sha256}", entry.download_bytes
        tell(Progress(digest, 0, total))
        pull_entry(entry, home, lambda done, total: tell(Progress(digest, done, total)))
        tell(Progress(digest, total, total))
        return
    hub = hub_name(name)
    assert hub is not None  # Pulls.join has looked
    commit = ""

    def announce(offer: Offer) -> None:
        nonlocal commit
        commit = f"sha1:{offer.commit}"
        tell(Progress(commit, offer.size - offer.missing, offer.size))

    model = pull_hub(
        hub,
        home,
        announce=announce,
        progress=lambda done, total: tell(Progress(commit, done, total)),
    )
    tell(Progress(f"sha1:{model.commit}", model.file_bytes, model.file_bytes))


def name_to_pull(asked: OllamaPull) -> str:
    """The name of a model that can be pulled; an AlpageError for any other."""
    name = pulled_name(asked.named)
    if hub_name(name) is None:
        find_entry(name)
    return name


async def lines(pulls: Pulls, name: str) -> AsyncGenerator[bytes, None]:
    """A pull as it goes on, a JSON document in each line."""
    yield line({"status": "pulling manifest"})
    verifying = False
    async with contextlib.aclosing(pulls.progress(name)) as news:
        async for progress in news:
            yield line(progress.told())
            if progress.done >= progress.total and not verifying:
                verifying = True
                yield line({"status": "verifying sha256 digest"})
    yield line({"status": "writing manifest"})
    yield line(_SUCCESS)


async def whole(pulls: Pulls, name: str) -> dict[str, Any]:
    """What is told when all of it is here."""
    async with contextlib.aclosing(pulls.progress(name)) as news:
        async for _ in news:
            pass
    return _SUCCESS
