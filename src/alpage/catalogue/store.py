"""Models of hubs on this machine: contents by their hash, and for each name a folder of links.

Under the cache's home: `blobs/sha256-HASH` holds each content once, however many names and
revisions use it; `hub/KEY/manifest.json` says what a name means, and `hub/KEY/COMMIT/NAME/` has its
files as hard links to the blobs (symbolic ones where the file system has no hard links), in the
layout that readers of models expect. A model is here when its manifest is: that is written last
and replaced at once. A blob goes when no manifest needs it. `partial/` has what has come of files
on their way. The library's own cache is not used: it is shared with other programs, so nothing in
it could be freed or vouched for.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alpage.catalogue.hub_name import HubName, hub_name, is_safe_path
from alpage.catalogue.lock import lock_if_free, locked
from alpage.core.errors import FormatError, StorageError
from alpage.core.paths import atomic_write, storage_errors
from alpage.weights.contents import Lineage
from alpage.weights.fields import Fields, read_json

MANIFEST = "manifest.json"
VERSION = 2
_MAX_MANIFEST = 1 << 22
_HASH = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a model: where it is in the model's folder, and what it holds."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class HubModel:
    """What a manifest says: a model of a hub that is here."""

    name: HubName
    endpoint: str
    commit: str
    model: str
    """What to open, inside the model's folder; empty for the folder itself."""
    files: tuple[StoredFile, ...]
    title: str
    format: str
    quantization: str
    parameters: int
    context_length: int
    licence: str | None
    lineage: Lineage
    pulled: str

    @property
    def file_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)

    def folder(self, home: Path) -> Path:
        """Where its files are."""
        return place(self.name, home) / self.commit[:12] / self.name.short

    def path(self, home: Path) -> Path:
        """The file or folder to open."""
        return self.folder(home) / self.model if self.model else self.folder(home)


def place(name: HubName, home: Path) -> Path:
    """The folder of everything that belongs to a name."""
    return home / "hub" / name.key


def blob(home: Path, sha256: str) -> Path:
    """Where a content is, or would be."""
    return home / "blobs" / f"sha256-{sha256}"


def store_lock(home: Path) -> contextlib.AbstractContextManager[None]:
    """Held, for moments only, by whoever changes manifests or deletes blobs."""
    return locked(home / "locks" / "store.lock")


def repository_lock(
    repository: str, home: Path, while_waiting: Callable[[], None] | None = None
) -> contextlib.AbstractContextManager[None]:
    """Held by whoever downloads from a repository; its partial files are theirs."""
    return locked(lock_path(repository, home), while_waiting)


def lock_path(repository: str, home: Path) -> Path:
    """The lock file of a repository."""
    return home / "locks" / f"hub--{repository.replace('/', '--')}.lock"


def partials(repository: str, home: Path) -> Path:
    """The folder of a repository's files on their way."""
    return home / "partial" / repository.replace("/", "--")


def find(name: HubName, home: Path) -> HubModel | None:
    """The model of exactly this name; None if it is not here, FormatError if damaged."""
    file = place(name, home) / MANIFEST
    with storage_errors(f"read {file}"):
        if not file.is_file():
            return None
    return read_manifest(file)


def read_manifest(file: Path) -> HubModel:
    """A manifest, believed only as far as it stays inside the store."""
    fields = read_json(file, _MAX_MANIFEST)
    if fields.integer("version") != VERSION:
        raise FormatError(f"{file} is of version {fields.integer('version')}, not {VERSION}")
    name = hub_name(fields.text("name") or "")
    commit, model = fields.text("commit") or "", fields.text("model") or ""
    listed = fields.values.get("files")
    if name is None or name.key != file.parent.name:
        raise FormatError(f"{file} is damaged: it does not belong to this folder")
    if not _COMMIT.fullmatch(commit) or type(listed) is not list or not listed:
        raise FormatError(f"{file} is damaged: it names no commit or no files")
    files = tuple(_file(file, item) for item in listed)
    if model and model not in [entry.path for entry in files]:
        raise FormatError(f"{file} is damaged: {model!r:.80} is none of its files")
    return HubModel(
        name, fields.text("endpoint") or "", commit, model, files,
        fields.label("title") or name.short, fields.word("format") or "",
        fields.word("quantization") or "", fields.integer("parameters"),
        fields.integer("context_length"), fields.label("licence"),
        _lineage(fields.section("lineage") or Fields(file, {})), fields.word("pulled") or "",
    )  # fmt: skip


def _file(manifest: Path, item: object) -> StoredFile:
    if type(item) is dict:
        fields = Fields(manifest, item)
        path, sha256 = fields.text("path") or "", fields.text("sha256") or ""
        if is_safe_path(path) and _HASH.fullmatch(sha256):
            return StoredFile(path, fields.integer("bytes"), sha256)
    raise FormatError(f"{manifest} is damaged: a file in it has no name or hash")


def _lineage(fields: Fields) -> Lineage:
    return Lineage(
        fields.label("authors"),
        *(tuple(fields.texts(key)) for key in ("base_models", "datasets", "contributions")),
    )


def manifests(home: Path) -> Iterator[tuple[Path, HubModel | FormatError]]:
    """Every manifest of the store, or what is wrong with it."""
    with storage_errors(f"read {home / 'hub'}"):
        found = sorted((home / "hub").glob(f"*/{MANIFEST}"))
    for file in found:
        try:
            yield file, read_manifest(file)
        except FormatError as error:
            yield file, error


def models(home: Path) -> list[HubModel]:
    """Every model of a hub that is here and whose manifest is sound."""
    return [model for _, model in manifests(home) if isinstance(model, HubModel)]


def variants(name: HubName, home: Path) -> list[HubModel]:
    """The models that are here from the repository of `name`, at any revision."""
    return [model for model in models(home) if model.name.repository == name.repository]


def check(model: HubModel, home: Path) -> None:
    """FormatError unless every file is there in its full size."""
    folder = model.folder(home)
    repair = f"run alpage pull {model.name.text} again"
    for file in model.files:
        path = folder / file.path
        with storage_errors(f"read {path}"):
            if not path.is_file():
                raise FormatError(f"{path} has disappeared; {repair}")
            size = path.stat().st_size
        if size != file.size:
            raise FormatError(
                f"{path} is damaged: it has {size:,} bytes and should have {file.size:,}; "
                f"{repair}, or remove it with alpage rm {model.name.text}"
            )


def sound(path: Path, file: StoredFile) -> bool:
    """Whether `path` holds `file` to the last bit."""
    with storage_errors(f"read {path}"):
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def put(source: Path, sha256: str, home: Path) -> Path:
    """Move a verified file into the store; one that is there and sound stays, as others link it."""
    target = blob(home, sha256)
    with storage_errors(f"move the download to {target}"):
        if sound(target, StoredFile(target.name, source.stat().st_size, sha256)):
            source.unlink()
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        source.chmod(0o644)
        source.replace(target)
    return target


def arrange(folder: Path, files: Iterable[StoredFile], home: Path) -> None:
    """Make `folder` have `files`, as links to their blobs. The store's lock is held."""
    for file in files:
        target, path = blob(home, file.sha256), folder / file.path
        with storage_errors(f"link {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.samefile(target):
                continue
            temporary = path.with_name(f".{path.name}.link")
            temporary.unlink(missing_ok=True)
            _link(target, temporary)
            temporary.replace(path)


def _link(target: Path, path: Path) -> None:
    try:
        path.hardlink_to(target)
    except OSError as refused:  # exFAT, some network drives, too many links
        try:
            path.symlink_to(os.path.relpath(target, path.parent))
        except OSError:
            raise refused from None


def record(model: HubModel, home: Path) -> None:
    """Write the manifest: from now on the model is here. The store's lock is held."""
    values = dataclasses.asdict(model) | {
        "version": VERSION,
        "name": model.name.text,
        "files": [{"path": f.path, "bytes": f.size, "sha256": f.sha256} for f in model.files],
    }
    with atomic_write(place(model.name, home) / MANIFEST) as file:
        file.write(json.dumps(values, indent=1).encode() + b"\n")


def remove(name: HubName, home: Path) -> int | None:
    """Delete a name with all that nobody else needs; the bytes freed, None if there was nothing.

    What a cut download from its repository has left goes too. Damage in this manifest does not
    stop it: then its blobs stay, for `alpage doctor --deep`.
    """
    left = _drop_partials(name.repository, home)
    folder = place(name, home)
    if not folder.is_dir():
        return left or None
    with store_lock(home):
        try:
            model = find(name, home)
        except FormatError:
            model = None
        with storage_errors(f"remove {folder}"):
            # The manifest goes first: from then on the model is not listed, whatever happens.
            (folder / MANIFEST).unlink(missing_ok=True)
            if folder.is_dir():
                _remove(folder)
        return left + drop((file.sha256 for file in model.files) if model else (), home)


def _drop_partials(repository: str, home: Path) -> int:
    """Delete what no running pull owns of a repository's files on their way; the bytes freed."""
    folder, freed = partials(repository, home), 0
    if folder.is_dir():
        with lock_if_free(lock_path(repository, home)) as free:
            if free:
                freed = sum(delete(file) for file in folder.iterdir())
                with contextlib.suppress(OSError):
                    folder.rmdir()
    return freed


def drop(hashes: Iterable[str], home: Path) -> int:
    """Delete those of `hashes` that no manifest needs; the bytes freed. The lock is held."""
    unneeded = set(hashes)
    for _, model in manifests(home):
        if not isinstance(model, HubModel):
            return 0  # a manifest that cannot be read may need any of them
        unneeded.difference_update(file.sha256 for file in model.files)
    return sum(delete(blob(home, sha256)) for sha256 in unneeded)


def prune(model: HubModel, home: Path) -> None:
    """Remove the folders of other commits of a name. The store's lock is held."""
    for folder in place(model.name, home).iterdir():
        if folder.is_dir() and folder.name != model.commit[:12]:
            with storage_errors(f"remove {folder}"):
                _remove(folder)


def delete(path: Path) -> int:
    """Remove a file that may have gone already; its size."""
    with storage_errors(f"remove {path}"):
        try:
            size = path.lstat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
    return size


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except PermissionError as error:  # Windows: a file that is mapped cannot go
        raise StorageError(f"cannot remove {folder}: is the model in use? ({error})") from error
