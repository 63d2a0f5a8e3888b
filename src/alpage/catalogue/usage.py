"""When a model was last used: the time of an empty file, which any number may set at once."""

import contextlib
import datetime
from pathlib import Path


def record_use(path: Path, home: Path) -> None:
    """Remember that the model at `path` is used now, if it is one of the cache's.

    Where that cannot be written (a read-only cache) it is not remembered.
    """
    marker = _marker(path, home)
    if marker is not None:
        with contextlib.suppress(OSError):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


def last_use(path: Path, home: Path) -> str | None:
    """When the model at `path` was last used: ISO 8601, UTC; None if never."""
    marker = _marker(path, home)
    if marker is not None:
        with contextlib.suppress(OSError):
            seconds = marker.stat().st_mtime
            now = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
            return now.isoformat(timespec="seconds")
    return None


def forget_use(path: Path, home: Path) -> None:
    """Remove what was remembered about the model at `path`."""
    marker = _marker(path, home)
    if marker is not None:
        with contextlib.suppress(OSError):
            marker.unlink()


def _marker(path: Path, home: Path) -> Path | None:
    """`used/KIND--NAME` for what lies in `KIND/NAME/`, the folder of a name in the cache."""
    for kind in ("models", "hub"):
        with contextlib.suppress(ValueError):
            first, *_ = path.relative_to(home / kind).parts or ("",)
            return home / "used" / f"{kind}--{first}" if first else None
    return None
