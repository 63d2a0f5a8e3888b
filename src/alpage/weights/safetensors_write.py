"""Writer of safetensors files: a JSON table, then the weights, one chunk in memory at a time.

Format: the safetensors project's README.
"""

import json
from collections.abc import Sequence
from typing import IO

from alpage.core.errors import UnsupportedError
from alpage.weights.gguf_write import PlannedTensor, Progress, write_chunks
from alpage.weights.tensor import TensorType

_TYPES = (TensorType.F32, TensorType.F16, TensorType.BF16)


def write_safetensors(
    file: IO[bytes], tensors: Sequence[PlannedTensor], *, progress: Progress | None = None
) -> None:
    """Write a whole safetensors file; `UnsupportedError` for a type that is not F32, F16 or BF16.

    Wider numbers come first, so that each tensor begins at a multiple of its numbers' size.
    """
    for tensor in tensors:
        if tensor.type not in _TYPES:
            raise UnsupportedError(
                f"safetensors hold F32, F16 and BF16 weights; {tensor.name} is {tensor.type.name}"
            )
    ordered = sorted(tensors, key=lambda tensor: -tensor.type.block_bytes)
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in ordered:
        table[tensor.name] = {
            "dtype": tensor.type.name,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    done = 0
    for tensor in ordered:
        done = write_chunks(file, tensor, done, offset, progress)
