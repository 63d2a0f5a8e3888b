"""From plain numbers to stored blocks, in native code on all processors.

A block's scale (and minimum) are searched for so that the sum of squared errors is least, each
weighted with its column's importance where that is known: native/src/quantize_rows.inl.
`weights/dequantize.py` is the way back.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage import _native
from alpage.core.errors import FormatError, InternalError
from alpage.core.processors import usable_processors
from alpage.weights.tensor import TensorType

ENCODED = (
    TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0, TensorType.Q4_0,
    TensorType.Q4_1, TensorType.Q5_0, TensorType.Q5_1, TensorType.Q4_K, TensorType.Q5_K,
    TensorType.Q6_K,
)  # fmt: skip
"""The types that can be made."""

_GIVEN = {
    np.dtype(np.float32): TensorType.F32,
    np.dtype(np.float16): TensorType.F16,
    np.dtype(np.uint16): TensorType.BF16,
}
_NOT_FINITE, _TOO_LARGE = 1, 2


def encode(
    values: NDArray[Any],
    kind: TensorType,
    importance: NDArray[np.float32] | None = None,
    threads: int = 0,
    isa: str = "",
    empty: Callable[[int], NDArray[np.uint8]] | None = None,
) -> NDArray[np.uint8]:
    """`values` [rows, columns] as blocks of `kind`: uint8 [rows * row_bytes].

    `values` are float32, float16, or uint16: the bits of bfloat16. `importance` [columns] says what
    an error in each column costs (finite, not negative). `threads` 0: all processors. The bytes
    depend neither on `threads` nor on the instruction set `isa`. `empty` gives the memory for them:
    uint8 [bytes]. `FormatError` where a row is no
    whole number of blocks, a weight is not finite, or one is too large for the type.
    """
    if kind not in ENCODED:
        raise InternalError(f"weights of type {kind.name} are read, not made")
    rows, columns = values.shape
    size = rows * kind.row_bytes(columns)
    out = np.empty(size, np.uint8) if empty is None else empty(size)
    if not out.size:
        return out
    given = _GIVEN[values.dtype]
    status = _native.encode(
        np.ascontiguousarray(values).reshape(-1).view(np.uint8), int(given), rows, columns,
        int(kind), importance, threads or usable_processors(), isa, out,
    )  # fmt: skip
    if status == _NOT_FINITE:
        row, column, what = _first_bad(values)
        raise FormatError(
            f"weight [{row}, {column}] is {what}: the model is damaged and cannot be quantised"
        )
    if status == _TOO_LARGE:
        raise FormatError(
            f"weights up to {_largest(values):.4g} are too large for {kind.name}, "
            "whose range ends near 65504 steps; take BF16 or F32"
            if kind.block_size > 1
            else f"weights up to {_largest(values):.4g} are too large for {kind.name}; take F32"
        )
    return out


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """What `encode` takes, as float32; no copy where it is float32 already."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=False)


def _first_bad(values: NDArray[Any]) -> tuple[int, int, str]:
    floats = as_float32(values)
    row, column = np.argwhere(~np.isfinite(floats))[0]
    return int(row), int(column), str(floats[row, column])


def _largest(values: NDArray[Any]) -> float:
    return float(np.abs(as_float32(values)).max())
