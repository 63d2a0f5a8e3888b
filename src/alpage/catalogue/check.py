"""Looking through the whole cache: every checksum again, and what belongs to nothing."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alpage.catalogue import store
from alpage.catalogue.entries import CATALOGUE
from alpage.catalogue.lock import lock_if_free
from alpage.catalogue.resolve import MANIFEST, installed
from alpage.catalogue.store import HubModel
from alpage.core.errors import FormatError, StorageError
from alpage.core.paths import storage_errors

Progress = Callable[[int, int], None]
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the cache, and what to do about it."""

    kind: Literal["damaged", "orphaned", "leftover"]
    path: Path
    size: int
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `check_cache` has found."""

    files: int
    """Files whose checksum was computed."""
    size: int
    """Their bytes."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Claim:
    """A file that somebody needs: what it should be, for whom, and how to get it again."""

    path: Path
    size: int
    sha256: str
    owner: str
    again: str
    manifest: Path


def check_cache(home: Path, progress: Progress | None = None) -> Report:
    """Verify the checksum of every file of every model in the cache, and look for what is left.

    Files that a running pull is working on are not reported.
    """
    problems: list[Problem] = []
    claims = [*_entry_claims(home, problems), *_hub_claims(home, problems)]
    known = {key: claim for claim in claims if (key := _identity(claim.path)) is not None}
    total = sum(size for _, _, size in known)
    done = 0

    def count(step: int) -> None:
        nonlocal done
        done += step
        if progress is not None and total:
            progress(min(done, total), total)

    hashes = {key: _sha256(claim.path, count) for key, claim in known.items()}
    for claim in claims:
        text = _wrong(claim, hashes)
        if text and claim.manifest.is_file():  # else it was removed while we looked
            problems.append(Problem("damaged", claim.path, claim.size, text, claim.again))
    problems += leftovers(home)
    return Report(len(known), total, tuple(problems))


_Identity = tuple[int, int, int]


def _identity(path: Path) -> _Identity | None:
    """Device, number and size of a file: one key for all links to it; None if it is not there."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino, status.st_size
    return None


def _sha256(path: Path, count: Callable[[int], None]) -> str | None:
    found = hashlib.sha256()
    try:
        with storage_errors(f"read {path}"), path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
                count(len(chunk))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None  # removed while we looked
        raise
    return found.hexdigest()


def _wrong(claim: _Claim, hashes: dict[_Identity, str | None]) -> str | None:
    identity = _identity(claim.path)
    if identity is None:
        return f"{claim.path} of {claim.owner} has disappeared"
    found = hashes.get(identity)
    if found in (claim.sha256, None):  # None: it was replaced while we looked
        return None
    return f"{claim.path} of {claim.owner} is damaged: SHA-256 {found}, not {claim.sha256}"


def _entry_claims(home: Path, problems: list[Problem]) -> Iterator[_Claim]:
    for entry in CATALOGUE.values():
        path, again = entry.path(home), f"alpage pull {entry.name} gets it again"
        manifest = entry.folder(home) / MANIFEST
        try:
            here = installed(entry, home) is not None
        except FormatError as error:  # wrong at first sight: needs no checksum
            problems.append(Problem("damaged", path, entry.file_bytes, str(error), again))
            continue
        if here:
            yield _Claim(path, entry.file_bytes, entry.sha256, entry.name, again, manifest)
        elif path.exists():
            text = f"{path} has no manifest: a pull was killed before its end"
            advice = f"alpage pull {entry.name} finishes it, alpage rm {entry.name} removes it"
            problems.append(Problem("leftover", path, _size(path), text, advice))


def _hub_claims(home: Path, problems: list[Problem]) -> Iterator[_Claim]:
    for file, model in store.manifests(home):
        if not isinstance(model, HubModel):
            advice = f"remove the folder {file.parent}, then pull the model again"
            problems.append(Problem("damaged", file, file.stat().st_size, str(model), advice))
            continue
        name = model.name.text
        again = f"alpage pull {name} gets it again"
        for entry in model.files:
            for path in (store.blob(home, entry.sha256), model.folder(home) / entry.path):
                yield _Claim(path, entry.size, entry.sha256, name, again, file)


def leftovers(home: Path) -> Iterator[Problem]:
    """What no model needs and no running pull owns."""
    sweep = "alpage rm --leftovers frees it"
    for path in _partials(home):
        text = f"{path} is the beginning of a download that was cut"
        advice = f"pull the same model again to go on from it, or {sweep}"
        yield Problem("leftover", path, _size(path), text, advice)
    for path in _staged(home):
        text = f"{path} is left from a pull that was killed"
        yield Problem("leftover", path, _size(path), text, sweep)
    for path in _unclaimed(home):
        yield Problem("orphaned", path, _size(path), f"{path} belongs to no model", sweep)


def sweep_leftovers(home: Path) -> int:
    """Delete all that `leftovers` finds; the bytes freed."""
    with store.store_lock(home):
        freed = sum(_delete(path) for path in [*_unclaimed(home)])
    # Each while its lock is held: no pull can begin to use it.
    freed += sum(_delete(path) for path in _partials(home))
    return freed + sum(_delete(path) for path in _staged(home))


def _delete(path: Path) -> int:
    """Remove a file, or a folder that is full of links; what that frees."""
    if not path.is_dir() or path.is_symlink():
        return store.delete(path)
    freed = 0
    with storage_errors(f"remove {path}"):
        for parent, folders, files in os.walk(path, topdown=False):
            for name in files:
                file = Path(parent, name)
                shared = file.lstat().st_nlink > 1
                freed += 0 if shared else store.delete(file)
                file.unlink(missing_ok=True)
            for name in folders:
                Path(parent, name).rmdir()
        path.rmdir()
    return freed


def _partials(home: Path) -> Iterator[Path]:
    for folder in _entries(home / "partial"):
        with lock_if_free(home / "locks" / f"hub--{folder.name}.lock") as free:
            if free and folder.is_dir():
                yield from _entries(folder)


def _staged(home: Path) -> Iterator[Path]:
    for folder in _entries(home / "staging"):
        with lock_if_free(home / "locks" / f"{folder.name}.lock") as free:
            if free and folder.is_dir():
                yield from _entries(folder)


def _unclaimed(home: Path) -> Iterator[Path]:
    """Blobs without a manifest, folders of no model, files that were being written.

    Nothing while a pull from a hub is running: what it has fetched has no manifest yet.
    """
    if _pulling(home):
        return
    found = dict(store.manifests(home))
    sound = [model for model in found.values() if isinstance(model, HubModel)]
    needed = {store.blob(home, file.sha256) for model in sound for file in model.files}
    if len(sound) == len(found):  # a manifest that cannot be read may need any of them
        yield from (path for path in _entries(home / "blobs") if path not in needed)
    commits = {store.place(m.name, home): m.commit[:12] for m in sound}
    for folder in _entries(home / "hub"):
        if folder / store.MANIFEST not in found:
            yield folder
        elif folder in commits:
            kept = (store.MANIFEST, commits[folder])
            yield from (path for path in _entries(folder) if path.name not in kept)
    for entry in CATALOGUE.values():
        folder = entry.folder(home)
        yield from folder.glob(f".{MANIFEST}.*")


def _pulling(home: Path) -> bool:
    for file in _entries(home / "locks"):
        if file.name.startswith("hub--"):
            with lock_if_free(file) as free:
                if not free:
                    return True
    return False


def _entries(folder: Path) -> list[Path]:
    with storage_errors(f"look into {folder}"):
        return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(_size(inner) for inner in _entries(path))
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_size if status.st_nlink == 1 else 0
