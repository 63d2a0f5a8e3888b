"""A weight that lies in several pieces, put together a few rows at a time."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import FormatError
from alpage.weights.mapped import drop_pages
from alpage.weights.tensor import Tensor, TensorType

_ALIGNMENT = 16


class JoinedTensor(Tensor):
    """A `Tensor` whose pieces stand below each other ("rows") or side by side ("columns").

    Each piece is uint8 [rows, row bytes], rows at any distance: a view of a mapped file. `data`
    puts the whole weight together each time; rows are read from their pieces.
    """

    __slots__ = ("_axis", "_pieces", "_starts")

    _pieces: tuple[NDArray[np.uint8], ...]
    _axis: Literal["rows", "columns"]
    _starts: NDArray[np.int64]

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        type: TensorType,  # noqa: A002 - as in Tensor
        pieces: Sequence[NDArray[np.uint8]],
        axis: Literal["rows", "columns"],
        row_order: NDArray[np.int32] | None = None,
    ) -> None:
        """Raises `FormatError` where the pieces do not make up `shape`."""
        sizes = [piece.shape[0 if axis == "rows" else 1] for piece in pieces]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        values = {
            "name": name, "shape": shape, "type": type, "row_order": row_order,
            "_pieces": tuple(pieces), "_axis": axis, "_starts": starts,
        }  # fmt: skip
        for field, value in values.items():
            object.__setattr__(self, field, value)
        whole = (self.rows, self.row_bytes)
        found = (int(starts[-1]), pieces[0].shape[1])
        if axis == "columns":
            found = (pieces[0].shape[0], int(starts[-1]))
        across = 1 if axis == "rows" else 0
        if whole != found or len({piece.shape[across] for piece in pieces}) > 1:
            raise FormatError(f"the pieces of tensor {name} do not make up {list(shape)}")

    @property
    def data(self) -> NDArray[np.uint8]:
        """The whole weight, uint8 [rows * row_bytes]: a copy unless it is one plain piece."""
        (first, *others) = self._pieces
        aligned = first.__array_interface__["data"][0] % _ALIGNMENT == 0
        if not others and first.flags.c_contiguous and aligned:
            return first.reshape(-1)
        return self.raw_rows(0, self.rows).reshape(-1)

    def raw_rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows `start` to `stop - 1`, copied: uint8 [stop - start, row_bytes]."""
        out = np.empty((stop - start, self.row_bytes), np.uint8)
        for piece, first, last in zip(
            self._pieces, self._starts[:-1], self._starts[1:], strict=True
        ):
            if self._axis == "columns":
                out[:, first:last] = piece[start:stop]
                continue
            begin, end = max(start, int(first)), min(stop, int(last))
            if begin < end:
                out[begin - start : end - start] = piece[begin - first : end - first]
        return out

    def raw_gather(self, order: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Rows `order`, copied: uint8 [order.size, row_bytes]."""
        out = np.empty((order.size, self.row_bytes), np.uint8)
        for piece, first, last in zip(
            self._pieces, self._starts[:-1], self._starts[1:], strict=True
        ):
            if self._axis == "columns":
                out[:, first:last] = piece[order]
                continue
            here = (order >= first) & (order < last)
            out[here] = piece[order[here] - first]
        return out

    def placed(self, name: str, row_order: NDArray[np.int32] | None) -> "JoinedTensor":
        """The same weight under another name, its rows in another order."""
        return JoinedTensor(name, self.shape, self.type, self._pieces, self._axis, row_order)

    def release(self) -> None:
        """Give the files' pages back to the operating system; they come again when needed."""
        for piece in self._pieces:
            drop_pages(piece)

    def same_place(self, other: "JoinedTensor") -> bool:
        """Whether both are one and the same bytes of the same files."""
        return len(self._pieces) == len(other._pieces) and all(
            left.__array_interface__["data"] == right.__array_interface__["data"]
            and left.shape == right.shape
            for left, right in zip(self._pieces, other._pieces, strict=True)
        )
