"""Writer of the GGUF container, version 3: metadata and tensors, one chunk in memory at a time.

Format: `docs/gguf.md` of the ggml project. What is written here `weights/gguf.py` reads back value
for value and bit for bit.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import InternalError, UnsupportedError
from alpage.weights.gguf_strings import encode_together
from alpage.weights.tensor import TensorType

Kinds = tuple[int, ...]
"""(value kind,) or (9, kind of the elements, ...), as in `gguf.Header.kinds`."""
Metadata = Mapping[str, tuple[Kinds, Any]]
"""Values by key, each with its kinds, in the order of the file."""
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

U16, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 2, 4, 5, 6, 7, 8, 9, 10
"""GGUF's value kinds that Alpage itself writes."""

VERSION = 3
DEFAULT_ALIGNMENT = 32
_ALIGNMENT_KEY = "general.alignment"
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written: `name` as in the file, `shape` in numpy's order.

    `chunks` gives its bytes in order (uint8, 1-D, any sizes); it is called once, when the tensor's
    turn has come, so the weights need not be in memory together.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    chunks: Callable[[], Iterator[NDArray[np.uint8]]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        size = self.type.row_bytes(self.shape[-1])
        for dimension in self.shape[:-1]:
            size *= dimension
        return size


def write_gguf(
    file: IO[bytes],
    metadata: Metadata,
    tensors: Sequence[PlannedTensor],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    progress: Progress | None = None,
) -> None:
    """Write a whole GGUF file to `file`, which stands at its beginning.

    `alignment` (bytes, a power of two) is where tensors may begin; a `general.alignment` in
    `metadata` is replaced by it. Raises `UnsupportedError` for a value that does not fit its kind.
    """
    entries = {key: entry for key, entry in metadata.items() if key != _ALIGNMENT_KEY}
    if alignment != DEFAULT_ALIGNMENT:
        entries[_ALIGNMENT_KEY] = ((U32,), alignment)
    header = bytearray(b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(entries)))
    for key, (kinds, value) in entries.items():
        header += _text(key)
        try:
            header += struct.pack("<I", kinds[0]) + _value(kinds, value)
        except (struct.error, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnsupportedError(
                f"metadata {key!r} cannot be written as GGUF kind {kinds}: {error}"
            ) from error
    total = _table(header, tensors, alignment)
    header += bytes(-len(header) % alignment)
    file.write(header)
    done = 0
    for tensor in tensors:
        done = write_chunks(file, tensor, done, total, progress)
        file.write(bytes(-tensor.nbytes % alignment))


def _table(header: bytearray, tensors: Sequence[PlannedTensor], alignment: int) -> int:
    """Append the tensor table; the bytes of all tensors, without padding."""
    offset = total = 0
    for tensor in tensors:
        header += _text(tensor.name) + struct.pack("<I", len(tensor.shape))
        header += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        header += struct.pack("<IQ", int(tensor.type), offset)
        offset += tensor.nbytes + -tensor.nbytes % alignment
        total += tensor.nbytes
    return total


def write_chunks(
    file: IO[bytes], tensor: PlannedTensor, done: int, total: int, progress: Progress | None
) -> int:
    """Write a tensor's bytes; `done` of `total` bytes of weights were written before it.

    Returns how many are written then, as `progress` hears after each chunk.
    """
    for chunk in _checked_chunks(tensor):
        file.write(chunk.data)
        done += chunk.size
        if progress is not None:
            progress(done, total)
    return done


def _checked_chunks(tensor: PlannedTensor) -> Iterator[NDArray[np.uint8]]:
    """The tensor's chunks; the table has promised their size, so another one is a bug."""
    left = tensor.nbytes
    for chunk in tensor.chunks():
        left -= chunk.size
        if left < 0:
            break
        yield np.ascontiguousarray(chunk)
    if left:
        raise InternalError(f"tensor {tensor.name} has {-left:+,} bytes more than announced")


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(kinds: Kinds, value: Any) -> bytes:
    kind = kinds[0]
    if kind == STRING:
        return _text(value)
    if kind != ARRAY:
        return struct.pack("<" + _CODES[kind], value)
    inner = kinds[1:]
    head = struct.pack("<IQ", inner[0], len(value))
    if inner[0] == STRING:
        together = encode_together(value)
        return head + (b"".join(_text(item) for item in value) if together is None else together)
    if inner[0] != ARRAY:
        return head + struct.pack(f"<{len(value)}{_CODES[inner[0]]}", *value)
    if value and len(inner) == 1:
        raise ValueError("arrays of different kinds in one array are not written")
    return head + b"".join(_value(inner, item) for item in value)
