"""Opening files that may be anything, and looking into them without copying."""

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import FormatError, NotFoundError, StorageError


class MappedFile:
    """A regular file, read-only in memory: `data` for slices of bytes, `array` for views."""

    def __init__(self, path: Path) -> None:
        """Map `path`.

        Raises `NotFoundError`, `StorageError` (not permitted, not readable) or `FormatError`
        (empty, or no regular file: a pipe would hang).
        """
        self.path = path
        with _open_errors(path):
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):
                raise FormatError(f"{path} is not a regular file")
            with path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                if self.size == 0:
                    raise FormatError(f"{path} is empty; the download is incomplete; pull it again")
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self.data)
        self.array: NDArray[np.uint8] = np.frombuffer(self.data, dtype=np.uint8)

    def close(self) -> None:
        """Unmap the file. If views of it still live, give its memory back and unmap later."""
        self.array = np.empty(0, dtype=np.uint8)
        try:
            self.data.close()
        except BufferError:
            self.release()

    def release(self) -> None:
        """Give all pages back to the operating system; they come again when they are looked at."""
        if hasattr(mmap, "MADV_DONTNEED"):
            with contextlib.suppress(OSError):
                self.data.madvise(mmap.MADV_DONTNEED)


def drop_pages(view: NDArray[np.uint8]) -> None:
    """Give the pages of a mapped file that `view` covers whole back to the operating system.

    They come again when they are looked at: what has been used up leaves resident memory small.
    A view of anything else is left alone.
    """
    base: Any = view
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = view.__array_interface__["data"][0] - np.frombuffer(base, np.uint8).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + view.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, first, length)


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file of at most `limit` bytes; the errors of `MappedFile` otherwise."""
    with _open_errors(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise FormatError(f"{path} is not a regular file")
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    if len(raw) > limit:
        raise FormatError(f"{path} is larger than the {limit:,} bytes that such a file may have")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text (byte {error.start:,})") from None


@contextlib.contextmanager
def _open_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}") from None
    except NotADirectoryError:
        raise NotFoundError(f"there is no file {path}: a part of the path is a file") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"cannot read {path}: {reason}") from error
