"""Where Alpage keeps things, and how it writes them: whole or not at all."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from alpage.core.errors import StorageError
from alpage.core.settings import Settings


def cache_home(settings: Settings) -> Path:
    """The model cache: ALPAGE_HOME, or `alpage` in the platform's cache folder."""
    if settings.home is not None:
        return settings.home
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "alpage"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "alpage"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "alpage"


def data_home(settings: Settings) -> Path:
    """What must not be lost: `data` in ALPAGE_HOME, or `alpage` in the platform's data folder."""
    if settings.home is not None:
        return settings.home / "data"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "alpage"
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
        return local / "alpage" / "data"
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share") / "alpage"


def ollama_models() -> Path:
    """The store of an Ollama on this machine, there or not: OLLAMA_MODELS, or its usual places."""
    given = os.environ.get("OLLAMA_MODELS")
    if given:
        return Path(given)
    own, service = Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")
    return service if not own.is_dir() and service.is_dir() else own


@contextlib.contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn the operating system's refusals during `action` into one clear `StorageError`."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.EFBIG: "the file would be larger than is allowed here",
    }
    try:
        yield
    except OSError as error:
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        place = f" ({error.filename})" if error.filename else ""
        raise StorageError(f"cannot {action}: {reason}{place}") from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` whole (temporary file, fsync, rename) or not at all."""
    import tempfile  # for who writes only

    with storage_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
