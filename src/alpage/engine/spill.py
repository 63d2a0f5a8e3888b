"""Cache pages on disk, so that a long system prompt survives a restart.

One file for each page, named by the page's key: 8 bytes of magic, 32 of a BLAKE2b digest over
fingerprint, key and content, then the content as the runner gives it. A file that is missing,
cut short, altered, or of another model or layout is a miss, never an error.
"""

import contextlib
import os
import stat
import tempfile
from hashlib import blake2b
from pathlib import Path

from alpage.core.errors import StorageError, UsageError
from alpage.engine.pages import Key

_MAGIC = b"ALPGPG01"
_DIGEST = 32


class Spill:
    """Pages of runners with one `fingerprint` in a folder below `folder`.

    The files of all fingerprints together are kept to `limit` bytes, the least recently used
    going first. Several processes may share the folder. StorageError where it cannot be made.
    """

    def __init__(self, folder: Path, fingerprint: str, limit: int) -> None:
        if limit < 0:
            raise UsageError(f"the limit of the cache on disk must be at least 0, not {limit}")
        self._root = folder
        self._fingerprint = fingerprint.encode()
        self._folder = folder / blake2b(self._fingerprint, digest_size=16).hexdigest()
        self._limit = limit
        self._room = limit  # for what this process saves
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"no folder for the cache on disk, {folder}: {error}") from error

    def load(self, key: Key) -> bytes | None:
        """The content of the page with `key`, or None. A damaged file is removed."""
        path = self._folder / key.hex()
        try:
            # No link, no device: whoever can write here must not make us read elsewhere.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode) or facts.st_size > self._limit:
                    return None
                data = file.read()
        except OSError:
            return None
        content = data[len(_MAGIC) + _DIGEST :]
        if data[: len(_MAGIC) + _DIGEST] != self._header(key, content):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content

    def save(self, key: Key, content: bytes) -> bool:
        """Keep a page; False where the limit is reached or the disk refuses.

        The first calls matter most: what they bring is what stays.
        """
        path = self._folder / key.hex()
        self._room -= len(content) + len(_MAGIC) + _DIGEST
        if self._room < 0 or path.exists():
            return self._room >= 0
        name = None
        try:
            handle, name = tempfile.mkstemp(prefix=".page.", dir=self._folder)
            with os.fdopen(handle, "wb") as file:
                file.write(self._header(key, content) + content)
            # Without fsync: what a crash leaves half-written fails its digest.
            Path(name).replace(path)
        except OSError:
            if name is not None:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
            return False
        return True

    def trim(self) -> None:
        """Remove the files used least recently until the rest keeps to the limit."""
        files = []
        for path in self._root.glob("*/*"):
            with contextlib.suppress(OSError):
                facts = path.lstat()
                if stat.S_ISREG(facts.st_mode):
                    files.append((facts.st_mtime_ns, facts.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    def _header(self, key: Key, content: bytes) -> bytes:
        digest = blake2b(digest_size=_DIGEST)
        for part in (self._fingerprint, key, content):
            digest.update(len(part).to_bytes(8, "little") + part)
        return _MAGIC + digest.digest()
