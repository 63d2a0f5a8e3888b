"""Reading tokenizer files: whole, but never more than such a file can sensibly hold."""

from pathlib import Path

from alpage.core.errors import FormatError, NotFoundError
from alpage.core.paths import storage_errors


def read_bounded(path: Path, limit: int) -> bytes:
    """Contents of `path`; `FormatError` when it is longer than `limit` bytes or no file.

    `NotFoundError` when it is missing, `StorageError` when it cannot be read.
    """
    with storage_errors(f"read {path}"):
        if not path.exists():
            raise NotFoundError(f"no such file: {path}")
        if not path.is_file():
            raise FormatError(f"{path} is not a file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise FormatError(f"{path} is no tokenizer file: it is longer than {limit} bytes")
    return data
