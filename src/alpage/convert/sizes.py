"""Weights over several files of a bounded size."""

from collections.abc import Sequence

from alpage.core.errors import UsageError
from alpage.weights.gguf_write import PlannedTensor, Progress


def split(tensors: Sequence[PlannedTensor], limit: int | None) -> list[list[PlannedTensor]]:
    """`tensors` in order, in parts of at most `limit` bytes each (or one tensor that is larger)."""
    if limit is None:
        return [list(tensors)]
    if limit < 1:
        raise UsageError(f"a file of a model cannot be limited to {limit} bytes")
    parts: list[list[PlannedTensor]] = [[]]
    room = limit
    for tensor in tensors:
        if parts[-1] and tensor.nbytes > room:
            parts.append([])
            room = limit
        parts[-1].append(tensor)
        room -= tensor.nbytes
    return parts


def shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """A part's progress as progress of the whole, of which `before` bytes are done."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)
