"""What a LoRA adapter is, whatever file it came from (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class LoraMatrix:
    """What is added to one matrix: y += scale * b @ (a @ x)."""

    a: NDArray[np.float32]  # [rank, columns]
    b: NDArray[np.float32]  # [rows, rank], rows in canonical order
    scale: float

    @property
    def rank(self) -> int:
        """Rows of a, columns of b."""
        return int(self.a.shape[0])


@dataclass(frozen=True, eq=False, slots=True)
class LoraAdapter:
    """A LoRA adapter: what it adds, by the canonical name of each matrix that it changes.

    Query and key rows are in the canonical half layout, which is that of PEFT's files, whatever
    the order of the model file's own rows.
    """

    name: str
    matrices: Mapping[str, LoraMatrix]

    @property
    def size(self) -> int:
        """Number of weights; an engine keeps them in 2 bytes each, and little besides."""
        return sum(matrix.a.size + matrix.b.size for matrix in self.matrices.values())
