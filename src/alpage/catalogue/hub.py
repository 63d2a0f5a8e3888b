"""Talking to a model hub, through the user's own `huggingface_hub`.

From the library come the endpoint (HF_ENDPOINT), the login (HF_TOKEN or `hf auth login`), offline
mode (HF_HUB_OFFLINE) and the HTTP session with its proxies and certificates. The bytes are read
here: the library begins a file anew in every process, and this has to go on where the last one was
cut. The hub's second way to send files (xet) is not used, for the same reason; every file can be
had over plain HTTP. The token goes to the hub alone (a redirect to another host drops it) and is
never written down or shown. The library is imported when a hub is first needed.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alpage.catalogue.hub_files import RemoteFile
from alpage.catalogue.hub_name import HubName, is_safe_path
from alpage.catalogue.partial import Partial
from alpage.core.errors import AlpageError, DownloadError, FormatError, NotFoundError, UserError
from alpage.core.paths import storage_errors
from alpage.weights.fields import Fields, clean, parse_json

_TRIES = 5
"""In a row without a new byte."""
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_MAX_ANSWER = 1 << 26
_MAX_FILES = 100_000
_MAX_SIZE = 1 << 44
_CHUNK = 1 << 18
_PASSING = (408, 429, 500, 502, 503, 504)
_HEX = frozenset("0123456789abcdef")


class CutError(DownloadError):
    """The connection failed for good: what has come is kept, and another pull goes on from it."""


class _PassingError(Exception):
    """A failure that may pass; `wait` is how many seconds the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Repository:
    """What a hub says about a model at one commit; all of it is the hub's word."""

    name: HubName
    endpoint: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None
    architecture: str | None
    """Of its GGUF files, where the hub has looked into them."""


class Hub:
    """One hub, as the user's environment names it.

    Its methods raise `DownloadError` (unreachable, refuses, sends something else) or
    `NotFoundError` (no such repository, revision or file).
    """

    def __init__(self) -> None:
        import huggingface_hub  # a third of a second: only who needs a hub pays for it
        from huggingface_hub import constants

        self.endpoint = constants.ENDPOINT
        token = huggingface_hub.get_token()
        self.logged_in = token is not None
        self._session = huggingface_hub.get_session()
        self._timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        # Not the library's own headers: to make them it may ask the hub for a list of programs.
        self._headers = {"user-agent": "alpage", "accept-encoding": "identity"}
        if token is not None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
            self._headers["authorization"] = f"Bearer {token}"
        if huggingface_hub.is_offline_mode():
            raise DownloadError(
                "HF_HUB_OFFLINE is set, so nothing can be downloaded; unset it and pull again"
            )

    def repository(self, name: HubName) -> Repository:
        """The commit that `name` means now, and its files."""
        url = f"{self.endpoint}/api/models/{name.repository}"
        url += f"/revision/{quote(name.revision, safe='')}?blobs=true"
        try:
            answer = self._retried(lambda: self._answer(url, name), name)
            return _parsed(answer, name, self.endpoint)
        except UserError as error:
            raise DownloadError(f"the hub's answer about {name.text} is damaged: {error}") from None

    def fetch(
        self, repository: Repository, file: RemoteFile, partial: Partial,
        report: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Bring `partial` to the end of `file`, going on where it stands.

        `report` is called with the bytes that are here. What is received is not yet verified.
        """
        url = f"{self.endpoint}/{repository.name.repository}/resolve/"
        url += f"{repository.commit}/{quote(file.path)}"

        def receive() -> None:
            if partial.size < file.size:
                self._receive(url, repository, file, partial, report)

        self._retried(receive, repository.name, lambda: partial.size)

    def _answer(self, url: str, name: HubName) -> Fields:
        with self._get(url, {}) as response:
            if response.status_code != 200:
                raise self._refusal(response, name, None)
            body = bytearray()
            for chunk in response.iter_bytes(_CHUNK):
                body += chunk
                if len(body) > _MAX_ANSWER:
                    raise DownloadError(f"the hub's answer about {name.text} has no end")
        return parse_json(body.decode("utf-8", "replace"), Path(name.text))

    def _receive(
        self, url: str, repository: Repository, file: RemoteFile, partial: Partial,
        report: Callable[[int], None],
    ) -> None:  # fmt: skip
        span = {"range": f"bytes={partial.size}-"} if partial.size else {}
        with self._get(url, span) as response:
            if response.status_code not in (200, 206):
                raise self._refusal(response, repository.name, file)
            _check_promises(response, repository, file)
            if response.status_code == 200 or not span:
                partial.restart()  # a server that knows no ranges sends all of it
            elif not _begins_at(response, partial.size):
                partial.restart()
                raise _PassingError("sent another part of the file than was asked for")
            # As it comes, in no steps of ours: all that came before a connection died is kept.
            for chunk in response.iter_raw():
                partial.write(chunk)
                if partial.size > file.size:
                    raise _wrong_size(repository, file, "more")
                report(partial.size)
        if partial.size < file.size:
            raise _PassingError(f"ended {file.path} at byte {partial.size:,} of {file.size:,}")

    @contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        """A response whose body is still to be read."""
        with self._session.stream(
            "GET", url, headers={**self._headers, **headers}, timeout=self._timeout,
            follow_redirects=True,
        ) as response:  # fmt: skip
            yield response

    def _retried(
        self, action: Callable[[], Any], name: HubName, progress: Callable[[], int] = lambda: 0
    ) -> Any:
        """`action`, again while it fails in a way that may pass; `progress` forgives failures."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        # HTTPError of the library's HTTP client, whichever that is.
        transport_error: type[Exception] = HfHubHTTPError.__bases__[0]
        failures, reached = 0, progress()
        while True:
            wait = 0.0
            try:
                return action()
            except AlpageError:
                raise
            except OfflineModeIsEnabled as error:
                raise DownloadError(f"HF_HUB_OFFLINE is set: cannot reach {name.text}") from error
            except _PassingError as error:
                reason, wait = str(error), error.wait
            except transport_error as error:
                reason = clean(str(error)) or type(error).__name__
            except (ValueError, UnicodeError) as error:  # an address that is none
                raise DownloadError(f"cannot reach {self.endpoint}: {clean(str(error))}") from error
            failures = 0 if progress() > reached else failures + 1
            reached = max(reached, progress())
            if failures >= _TRIES or wait > _LONGEST_WAIT:
                raise self._gave_up(name, reason, reached)
            time.sleep(wait or (_FIRST_WAIT * 2 ** (failures - 1) if failures else 0))

    def _gave_up(self, name: HubName, reason: str, reached: int) -> CutError:
        kept = f"; {reached:,} bytes of the file are kept, pull again to go on" if reached else ""
        return CutError(f"{self.endpoint} failed for {name.text}: {reason}{kept}")

    def _refusal(self, response: Any, name: HubName, file: RemoteFile | None) -> Exception:
        """What a status other than success means, and what to do about it."""
        status, code = response.status_code, response.headers.get("x-error-code", "")
        said = clean(response.headers.get("x-error-message", ""))
        if status in _PASSING:
            return _PassingError(f"it answers {status} {said}".rstrip(), _wait_of(response))
        if code == "GatedRepo":
            return DownloadError(self._how_to_enter(name))
        if status == 401 and "credentials" in said.lower():
            return DownloadError(
                f"{self.endpoint} does not accept your login ({said}); hf auth login renews it, "
                "and HF_TOKEN, if set, has to hold a valid token"
            )
        if code == "RevisionNotFound":
            return NotFoundError(f"{name.repository} has no revision {name.revision!r}")
        if code == "EntryNotFound" and file is not None:
            return NotFoundError(f"{name.text} has no file {file.path} on the hub any more")
        if code == "RepoNotFound" or status in (401, 404):
            login = "" if self.logged_in else " (you are not logged in: hf auth login)"
            return NotFoundError(
                f"{self.endpoint} has no model {name.repository}, or it is private{login}"
            )
        if status == 416 and file is not None:
            return DownloadError(f"{file.path} is shorter on the hub than the hub itself says")
        what = f" for {file.path}" if file else ""
        return DownloadError(f"{self.endpoint} answers {status}{what}: {said or 'no reason given'}")

    def _how_to_enter(self, name: HubName) -> str:
        page = f"{self.endpoint}/{name.repository}"
        login = "" if self.logged_in else "log in with hf auth login (or set HF_TOKEN), "
        return (
            f"{name.repository} is gated: its makers want you to accept their licence first. Open "
            f"{page} in a browser, ask for access there, {login}then pull again"
        )


def _wait_of(response: Any) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdigit() and len(text) < 9 else 0.0


def _check_promises(response: Any, repository: Repository, file: RemoteFile) -> None:
    """What the headers say about commit, content and size, before a byte is kept."""
    for answer in (*response.history, response):
        commit = answer.headers.get("x-repo-commit")
        if commit is not None and commit != repository.commit:
            raise DownloadError(
                f"the hub sends {file.path} of commit {clean(commit)[:40]}, not of "
                f"{repository.commit}; nothing was kept"
            )
        etag = answer.headers.get("x-linked-etag", "").strip('"')
        if file.sha256 is not None and etag not in ("", file.sha256):
            raise DownloadError(
                f"the hub has another {file.path} than it lists: SHA-256 {clean(etag)[:64]}, not "
                f"{file.sha256}; nothing was kept"
            )
        size = answer.headers.get("x-linked-size", "")
        if size.isdigit() and size != str(file.size):
            raise _wrong_size(repository, file, size)
    length = response.headers.get("content-length", "")
    if response.status_code == 200 and length.isdigit() and length != str(file.size):
        raise _wrong_size(repository, file, length)
    total = response.headers.get("content-range", "").rpartition("/")[2]
    if response.status_code == 206 and total.isdigit() and total != str(file.size):
        raise _wrong_size(repository, file, total)


def _wrong_size(repository: Repository, file: RemoteFile, found: str) -> DownloadError:
    return DownloadError(
        f"{file.path} of {repository.name.text} has {found[:20]} bytes on the hub, but should "
        f"have {file.size:,}; nothing was kept"
    )


def _begins_at(response: Any, offset: int) -> bool:
    return bool(response.headers.get("content-range", "").startswith(f"bytes {offset}-"))


def _parsed(answer: Fields, name: HubName, endpoint: str) -> Repository:
    commit = answer.word("sha") or ""
    if len(commit) != 40 or not set(commit) <= _HEX:
        raise FormatError(f"it names no commit (sha is {commit[:50]!r})")
    if name.pinned and commit != name.revision:
        raise DownloadError(
            f"the hub answers with commit {commit} for {name.text}; a pinned model never changes, "
            "so nothing was fetched"
        )
    siblings = answer.values.get("siblings")
    if type(siblings) is not list or len(siblings) > _MAX_FILES:
        raise FormatError("it has no list of files")
    card = answer.section("cardData") or Fields(answer.path, {})
    gguf = answer.section("gguf") or Fields(answer.path, {})
    return Repository(
        name, endpoint, commit,
        tuple(file for item in siblings if (file := _file(item, answer.path)) is not None),
        _licence(card), gguf.label("architecture"),
    )  # fmt: skip


def _file(item: object, where: Path) -> RemoteFile | None:
    """A file of the list; None for one whose name cannot be had safely on every system."""
    if type(item) is not dict:
        raise FormatError("an entry of its list of files is no object")
    fields = Fields(where, item)
    path = fields.text("rfilename") or ""
    if not is_safe_path(path):
        return None
    lfs = fields.section("lfs")
    size = fields.integer("size", -1) if lfs is None else lfs.integer("size")
    sha256 = None if lfs is None else lfs.text("sha256")
    git = fields.text("blobId")
    if not 0 <= size < _MAX_SIZE or not (_is_hex(sha256, 64) or _is_hex(git, 40)):
        raise FormatError(f"it does not say size and hash of {path}")
    return RemoteFile(path, size, sha256 if _is_hex(sha256, 64) else None, git)


def _is_hex(text: str | None, length: int) -> bool:
    return text is not None and len(text) == length and set(text) <= _HEX


def _licence(card: Fields) -> str | None:
    for key in ("license_name", "license"):
        value = card.values.get(key)
        if type(value) is list and value:
            value = value[0]
        if type(value) is str and value not in ("", "other"):
            return clean(value)
    return None


def verify(path: Path, file: RemoteFile) -> str:
    """The SHA-256 of the file at `path`, which is `file` to the last bit; DownloadError if not."""
    with storage_errors(f"read {path}"):
        size = path.stat().st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                sha256.update(chunk)
                if file.sha256 is None:
                    git.update(chunk)
    found = sha256.hexdigest() if file.sha256 else git.hexdigest()
    expected = file.sha256 or file.git
    if size != file.size or found != expected:
        raise DownloadError(
            f"{file.path} is not the file that was expected: it has {size:,} bytes and hash "
            f"{found}, not {file.size:,} bytes and {expected}; nothing was kept"
        )
    return sha256.hexdigest()
