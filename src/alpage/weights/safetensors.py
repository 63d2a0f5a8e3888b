"""Reader of safetensors files, memory-mapped: a JSON table, then the weights without gaps.

Format: the safetensors project's README. Offsets, shapes and sizes are checked against each
other and against the file before any weight is looked at.
"""

from typing import Any

from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.fields import Fields, is_plain, parse_json
from alpage.weights.mapped import MappedFile
from alpage.weights.tensor import Tensor, TensorType

MAX_HEADER = 1 << 24
"""Bytes. 50,000 tensors take about 6 MB."""
MAX_DIMENSIONS = 8
MAX_NAME = 256
_TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}


def read_safetensors(file: MappedFile) -> dict[str, Tensor]:
    """Every tensor by its name in the file, as views of it.

    Raises `FormatError` for a file that is damaged or truncated, `UnsupportedError` for weights
    that are not F32, F16 or BF16.
    """
    table, start = _read_table(file)
    placed: list[tuple[int, int, str, Fields]] = []
    for name in table.values:
        if name == "__metadata__":
            continue
        if not is_plain(name, MAX_NAME):
            raise FormatError(f"{file.path} is damaged: a tensor is named {name[:40]!r}")
        entry = table.section(name)
        if entry is None:
            raise FormatError(f"{file.path} is damaged: tensor {name} has no description")
        first, last = _integers(entry, "data_offsets", name, 2)
        placed.append((first, last, name, entry))
    placed.sort(key=lambda item: item[:2])
    _check_places(file, placed, file.size - start)
    return {
        name: _tensor(file, name, entry, start + first, start + last)
        for first, last, name, entry in placed
    }


def _read_table(file: MappedFile) -> tuple[Fields, int]:
    """The JSON table, and where the weights begin."""
    if file.size < 8:
        raise FormatError(
            f"{file.path} is not a safetensors file, or a truncated one: it has {file.size} bytes"
        )
    length = int.from_bytes(file.data[:8], "little")
    if length > MAX_HEADER or file.data[8:9] != b"{":
        raise FormatError(
            f"{file.path} is not a safetensors file (it begins with {file.data[:9]!r})"
        )
    if 8 + length > file.size:
        raise FormatError(
            f"{file.path} is truncated: it has {file.size:,} bytes, its table alone takes "
            f"{8 + length:,}; the download is incomplete; pull it again"
        )
    try:
        text = str(file.data[8 : 8 + length], "utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{file.path} is damaged: its table is not UTF-8 text") from None
    return parse_json(text, file.path), 8 + length


def _check_places(
    file: MappedFile, placed: list[tuple[int, int, str, Fields]], available: int
) -> None:
    """The tensors, in order, must cover the data once and whole."""
    end, previous = 0, "the beginning"
    for first, last, name, _ in placed:
        if first < end or last < first:
            raise FormatError(f"{file.path} is damaged: {previous} and tensor {name} overlap")
        if first > end:
            raise FormatError(
                f"{file.path} is damaged: {first - end:,} unclaimed bytes before tensor {name}"
            )
        end, previous = last, f"tensor {name}"
    if end > available:
        raise FormatError(
            f"{file.path} is truncated: it has {available:,} of the {end:,} bytes of weights that "
            "its table announces; the download is incomplete; pull it again"
        )
    if end < available:
        raise FormatError(
            f"{file.path} is damaged: {available - end:,} unclaimed bytes after the last tensor"
        )


def _tensor(file: MappedFile, name: str, entry: Fields, first: int, last: int) -> Tensor:
    dtype = entry.word("dtype")
    if dtype not in _TYPES:
        raise UnsupportedError(
            f"{file.path}: tensor {name} has type {dtype}; Alpage reads {', '.join(_TYPES)}"
        )
    kind = _TYPES[dtype]
    shape = tuple(_integers(entry, "shape", name, None))
    size = kind.block_bytes
    for dimension in shape:
        size *= dimension
    if not shape or size == 0:
        raise FormatError(f"{file.path} is damaged: tensor {name} has shape {list(shape)}")
    if size != last - first:
        raise FormatError(
            f"{file.path} is damaged: tensor {name} of shape {list(shape)} in {dtype} takes "
            f"{size:,} bytes, not the {last - first:,} between its offsets"
        )
    return Tensor(name, shape, kind, file.array[first:last])


def _integers(entry: Fields, key: str, name: str, count: int | None) -> list[int]:
    """A short list of whole numbers, none negative and none beyond 2^63."""
    value: Any = entry.values.get(key)
    if (
        type(value) is not list
        or len(value) > MAX_DIMENSIONS
        or (count is not None and len(value) != count)
        or not all(type(n) is int and 0 <= n < 1 << 63 for n in value)
    ):
        raise FormatError(f"{entry.path} is damaged: {key} of tensor {name!r:.80} makes no sense")
    return value
