"""The part of a file that has come so far: it outlives the process, and the rest follows."""

import os
from pathlib import Path
from typing import IO, Self

from alpage.core.paths import storage_errors


class Partial:
    """A file that grows at its end. Whoever holds the lock of its folder may write it."""

    def __init__(self, path: Path, limit: int) -> None:
        """Open or begin `path`; what is longer than `limit` cannot be right and is dropped."""
        self.path = path
        with storage_errors(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("ab", buffering=0)
            self.size = self._file.tell()
            if self.size > limit:
                self.restart()
        self.resumed = self.size > 0

    def write(self, data: bytes) -> None:
        """Add `data`; on a full disk what fits is kept until the caller deletes the file."""
        with storage_errors(f"write {self.path}"):
            view = memoryview(data)
            while view:
                written = self._file.write(view)
                self.size += written
                view = view[written:]

    def restart(self) -> None:
        """Forget everything."""
        with storage_errors(f"write {self.path}"):
            self._file.truncate(0)
            self._file.seek(0)
            self.size = 0
            self.resumed = False

    def sync(self) -> None:
        """Have it all on the disk."""
        with storage_errors(f"write {self.path}"):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
