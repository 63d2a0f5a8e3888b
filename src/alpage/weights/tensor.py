"""One stored weight: its raw bytes in the file, its type, and the way to plain numbers."""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import FormatError
from alpage.weights.dequantize import BLOCK_LAYOUTS, dequantize_blocks
from alpage.weights.mapped import drop_pages

CHUNK_BYTES = 1 << 20
"""Raw bytes dequantised at a time: temporaries stay in the processor's cache."""


class TensorType(IntEnum):
    """How weights are stored; the numbers are those of GGUF files."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    IQ4_XS = 23
    BF16 = 30

    @property
    def block_size(self) -> int:
        """Weights in one block; 1 for plain floating point."""
        return BLOCK_LAYOUTS[self.name].weights

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return BLOCK_LAYOUTS[self.name].dtype.itemsize

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` weights; `FormatError` if that is not whole blocks."""
        blocks, rest = divmod(columns, self.block_size)
        if rest:
            raise FormatError(
                f"a row of {columns} weights is not a whole number of {self.name} blocks "
                f"of {self.block_size}"
            )
        return blocks * self.block_bytes


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A weight of a model file, not copied: `data` looks into the memory-mapped file.

    `shape` is (rows, columns) or (n,), in numpy's order. `data` is uint8 [rows * row_bytes] in
    the order of the file; canonical row r is file row `row_order[r]`, and None means that the
    two orders are the same.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: NDArray[np.uint8]
    row_order: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if self.data.shape != (self.rows * self.row_bytes,):
            raise FormatError(
                f"tensor {self.name} of shape {self.shape} in {self.type.name} takes "
                f"{self.rows * self.row_bytes} bytes, not {self.data.size}"
            )
        if self.row_order is not None and self.row_order.shape != (self.rows,):
            raise FormatError(
                f"tensor {self.name} has {self.rows} rows but a row order of {self.row_order.size}"
            )

    @property
    def rows(self) -> int:
        """Rows of the matrix; a vector is one row."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Weights in a row."""
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the file."""
        return self.type.row_bytes(self.columns)

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.rows * self.row_bytes

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def raw_rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows `start` to `stop - 1` of the file as stored: uint8 [stop - start, row_bytes]."""
        return self.data.reshape(self.rows, self.row_bytes)[start:stop]

    def raw_gather(self, order: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Rows `order` of the file as stored, copied: uint8 [order.size, row_bytes]."""
        return np.take(self.data.reshape(self.rows, self.row_bytes), order, axis=0)

    def placed(self, name: str, row_order: NDArray[np.int32] | None) -> "Tensor":
        """The same weight under another name, its rows in another order."""
        return Tensor(name, self.shape, self.type, self.data, row_order)

    def release(self) -> None:
        """Give the file's pages back to the operating system; they come again when needed."""
        drop_pages(self.data)

    def dequantize(self) -> NDArray[np.float32]:
        """A new float32 array [shape] in canonical row order; the file is not kept alive by it.

        Equal to llama.cpp's `gguf.quants.dequantize` to the last bit. Besides the result it
        takes a few megabytes of memory, whatever the tensor's size.
        """
        return self.dequantize_rows(0, self.rows).reshape(self.shape)

    def dequantize_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Canonical rows `start` to `stop - 1` as a new float32 array [stop - start, columns]."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start}:{stop} of a tensor with {self.rows} rows")
        out = np.empty((stop - start, self.columns), dtype=np.float32)
        step = max(1, CHUNK_BYTES // self.row_bytes)
        for at in range(start, stop, step):
            end = min(at + step, stop)
            if self.row_order is None:
                raw = self.raw_rows(at, end)
            else:
                raw = self.raw_gather(self.row_order[at:end])
            self._fill(raw.reshape(-1), out[at - start : end - start].reshape(-1))
        return out

    def _fill(self, raw: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Dequantise whole blocks `raw` (uint8, 1-D) into `out` (float32, 1-D), in chunks."""
        block, width = self.type.block_bytes, self.type.block_size
        step = max(1, CHUNK_BYTES // block)
        for at in range(0, raw.size // block, step):
            piece = raw[at * block : (at + step) * block]
            dequantize_blocks(self.type.name, piece, out[at * width : (at + step) * width])
