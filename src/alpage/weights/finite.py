"""Looking for NaN and infinity in all weights of a model, without running it.

The native engine refuses such weights each time it loads; this is for asking about a file alone.
"""

from collections.abc import Callable

import numpy as np

from alpage.core.errors import FormatError
from alpage.weights.contents import ModelSource

_VALUES = 1 << 20  # dequantised at a time


def check_finite(source: ModelSource, progress: Callable[[int, int], None] | None = None) -> None:
    """Look at every weight once; `progress` gets the weights done and all of them.

    Raises `FormatError` with the name of the first tensor that holds a NaN or infinite weight.
    """
    total = sum(tensor.size for tensor in source.tensors.values())
    done = 0
    for name, tensor in source.tensors.items():
        step = max(1, _VALUES // tensor.columns)
        for start in range(0, tensor.rows, step):
            rows = tensor.dequantize_rows(start, min(start + step, tensor.rows))
            if not np.isfinite(rows).all():
                raise FormatError(
                    f"{source.path}: tensor {name} holds NaN or infinite weights: the file is "
                    "damaged"
                )
            done += rows.size
            if progress is not None:
                progress(done, total)
