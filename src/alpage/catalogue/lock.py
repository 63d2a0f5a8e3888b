"""One process at a time: a lock that the operating system drops when its holder dies."""

import contextlib
import errno
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from alpage.core.paths import storage_errors

_POLL_SECONDS = 0.1
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


@contextlib.contextmanager
def locked(path: Path, while_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path`; while another process holds it, wait and call `while_waiting`.

    The file itself stays: deleting it would let two processes lock two files of one name.
    """
    with storage_errors(f"lock {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        while not _try_lock(file, path):
            if while_waiting is not None:
                while_waiting()
            time.sleep(_POLL_SECONDS)
        yield


@contextlib.contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` and give True, or give False at once if another process does."""
    with storage_errors(f"lock {path}"):
        try:
            file = path.open("rb")  # this much works in a read-only cache too
        except FileNotFoundError:  # nobody has ever locked it
            yield True
            return
    with file:
        yield _try_lock(file, path)


def _try_lock(file: IO[bytes], path: Path) -> bool:
    with storage_errors(f"lock {path}"):
        try:
            _lock_now(file)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
    return True


if sys.platform == "win32":
    import msvcrt

    def _lock_now(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock_now(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
