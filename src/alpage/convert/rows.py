"""A tensor's rows in any order and type, a few megabytes at a time."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.dequantize import dequantize_blocks
from alpage.weights.quantize import as_float32
from alpage.weights.tensor import Tensor, TensorType

CHUNK_WEIGHTS = 1 << 20
"""Weights converted at a time (4 MiB as float32); at least one row."""

FLOATS = (TensorType.F32, TensorType.F16, TensorType.BF16)

Encoder = Callable[[NDArray[Any], TensorType, NDArray[np.float32] | None], NDArray[np.uint8]]
"""[rows, columns], type, importance [columns] or None -> uint8 [rows * row_bytes].

The rows are float32, float16, or uint16: the bits of bfloat16.
"""

_AS_STORED: dict[TensorType, np.dtype[Any]] = {
    TensorType.F32: np.dtype("<f4"),
    TensorType.F16: np.dtype("<f2"),
    TensorType.BF16: np.dtype("<u2"),
}


def encode_floats(
    values: NDArray[Any], kind: TensorType, _: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """`values` as F32, F16 or BF16, rounded to nearest (ties to even): the plain `Encoder`.

    `FormatError` where a finite value is beyond the range of F16.
    """
    flat = np.ascontiguousarray(as_float32(values)).reshape(-1)
    if kind is TensorType.F32:
        return flat.view(np.uint8)
    if kind is TensorType.F16:
        with np.errstate(over="ignore"):
            halves = flat.astype(np.float16)
        if (np.isinf(halves) & np.isfinite(flat)).any():
            raise FormatError(
                f"a weight of {flat[np.argmax(np.abs(flat))]:g} is beyond the range of F16 "
                "(65504); convert to BF16 or F32"
            )
        return halves.view(np.uint8)
    if kind is not TensorType.BF16:
        raise UnsupportedError(f"weights in {kind.name} are made by alpage quantize")
    bits = flat.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    quiet = bits >> np.uint32(16) | np.uint32(0x40)  # a NaN must not round to infinity
    return np.where(np.isnan(flat), quiet, rounded).astype(np.uint16).view(np.uint8)


def chunks(
    tensor: Tensor,
    kind: TensorType,
    *,
    order: NDArray[np.int32] | None = None,
    importance: NDArray[np.float32] | None = None,
    encode: Encoder = encode_floats,
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of `tensor` stored as `kind`, row r of them being canonical row `order[r]`.

    `order` may name a part of the rows. Where the type stays the same the bytes do too.
    """
    made = pieces(tensor, kind, order=order, importance=importance, encode=encode)
    return (make() for make in made)


def pieces(
    tensor: Tensor,
    kind: TensorType,
    *,
    order: NDArray[np.int32] | None = None,
    importance: NDArray[np.float32] | None = None,
    encode: Encoder = encode_floats,
) -> Iterator[Callable[[], NDArray[np.uint8]]]:
    """Functions that make the `chunks`, each one of them, in any thread."""
    places = file_order(tensor, order)
    count = tensor.rows if places is None else places.size
    step = max(1, CHUNK_WEIGHTS // tensor.columns)

    def make(start: int) -> NDArray[np.uint8]:
        stop = min(start + step, count)
        raw = (
            tensor.raw_rows(start, stop)
            if places is None
            else tensor.raw_gather(places[start:stop])
        ).reshape(-1)
        return raw if kind is tensor.type else encode(_numbers(tensor, raw), kind, importance)

    return (partial(make, start) for start in range(0, count, step))


def _numbers(tensor: Tensor, raw: NDArray[np.uint8]) -> NDArray[Any]:
    """Whole rows out of the file's bytes: plain numbers as they are, blocks as float32."""
    if tensor.type in _AS_STORED:
        return raw.view(_AS_STORED[tensor.type]).reshape(-1, tensor.columns)
    values = np.empty((raw.size // tensor.row_bytes, tensor.columns), np.float32)
    dequantize_blocks(tensor.type.name, raw, values.reshape(-1))
    return values


def file_order(tensor: Tensor, order: NDArray[np.int32] | None) -> NDArray[np.int32] | None:
    """Rows of the file that canonical rows `order` are; None where that is simply 0, 1, 2, ..."""
    if tensor.row_order is not None:
        order = tensor.row_order if order is None else tensor.row_order[order]
    if order is None or np.array_equal(order, np.arange(tensor.rows, dtype=np.int32)):
        return None
    return order
