"""Where a converted model goes: it appears whole or not at all, and never over its source."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from alpage.core.errors import UsageError
from alpage.core.paths import storage_errors
from alpage.weights.contents import ModelSource

SYNC_BYTES = 32 << 20
"""Written bytes that go to the disk while more are written: the end waits for so few."""

_SUFFIXES = {".json", ".safetensors", ".gguf", ".pth", ".model", ".jinja", ".md", ".txt", ""}


def check_target(source: ModelSource, target: Path, *, force: bool, folder: bool) -> None:
    """Refuse a target that is there already, or that is part of the source or around it.

    With `force` a file is replaced by a file, and a folder by a folder if it holds a model and
    nothing else: replacing removes all that is in it.
    """
    with storage_errors(f"write {target}"):
        place = target.resolve()
        base = source.path.resolve()
        inputs = [file.path.resolve() for file in source.files]
        if place == base or (base.is_dir() and base in place.parents):
            raise UsageError(f"{target} is the model itself or lies in it; give another place")
        if any(place == path or place in path.parents for path in inputs):
            raise UsageError(f"{target} holds the model that is being converted")
        if any(target.exists() and target.samefile(path) for path in inputs):
            raise UsageError(f"{target} is another name of the model that is being converted")
        if not target.exists() and not target.is_symlink():
            return
        if not force:
            raise UsageError(f"{target} exists; --force replaces it")
        if target.is_dir() != folder:
            kind, wanted = ("folder", "file") if target.is_dir() else ("file", "folder")
            raise UsageError(f"{target} is a {kind}, and a {wanted} cannot take its place")
        if folder:
            _check_replaceable(target)


def _check_replaceable(folder: Path) -> None:
    """A folder of model files may be replaced, and no other one."""
    for path in folder.iterdir():
        if path.is_dir() or path.is_symlink() or path.suffix.lower() not in _SUFFIXES:
            raise UsageError(
                f"{folder} holds {path.name}, which is no part of a model; it is not replaced"
            )


class _FlowingFile(io.BufferedWriter):
    """A file whose bytes go to the disk while later ones are still to come."""

    def __init__(self, path: Path, pool: ThreadPoolExecutor) -> None:
        super().__init__(io.FileIO(path, "w"))
        self._pool = pool
        self._since = 0
        self._sync: Future[None] | None = None

    def write(self, data: Any, /) -> int:
        count = super().write(data)
        self._since += count
        if self._since >= SYNC_BYTES and (self._sync is None or self._sync.done()):
            self.check()
            self._sync = self._pool.submit(os.fsync, self.fileno())
            self._since = 0
        return count

    def check(self) -> None:
        """Raise what a sync has found wrong: the system says it once, and not again at the end."""
        if self._sync is not None:
            self._sync.result()


@contextlib.contextmanager
def synced(path: Path) -> Iterator[IO[bytes]]:
    """A new file for writing, on the disk when the block ends."""
    with ThreadPoolExecutor(1, "sync") as pool, _FlowingFile(path, pool) as file:
        yield file
        file.flush()
        file.check()
        os.fsync(file.fileno())


@contextlib.contextmanager
def staged_files(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Paths to write instead of `targets`, all in one folder; all of them move in at the end.

    Replaces what is there. After an error or Ctrl-C nothing is left, and nothing was replaced.
    """
    parent = targets[0].parent
    with _staging(parent, targets[0].name) as folder:
        places = [folder / target.name for target in targets]
        yield places
        moved: list[Path] = []
        try:
            for place, target in zip(places, targets, strict=True):
                place.replace(target)
                moved.append(target)
        except BaseException:
            for target in moved:
                with contextlib.suppress(OSError):
                    target.unlink()
            raise


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill instead of `target`; it takes its place at the end.

    An existing `target` is replaced: it is moved aside first and comes back if that fails.
    """
    with _staging(target.parent, target.name) as folder:
        new, old = folder / "new", folder / "old"
        new.mkdir()
        yield new
        if target.exists():
            target.replace(old)
        try:
            new.replace(target)
        except BaseException:
            if old.exists():
                old.replace(target)
            raise


@contextlib.contextmanager
def _staging(parent: Path, name: str) -> Iterator[Path]:
    """A temporary folder beside the target, gone afterwards whatever happens."""
    with storage_errors(f"write {parent / name}"):
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name[:100]}.", dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
