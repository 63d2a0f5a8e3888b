"""The next chunk of weights is made while the last one is written."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from alpage.weights.gguf_write import PlannedTensor

Chunk = NDArray[np.uint8]


@contextmanager
def made_ahead(tensors: Sequence[PlannedTensor]) -> Iterator[list[PlannedTensor]]:
    """The same tensors, to be written in this order; their chunks are made in another thread.

    One chunk is waiting at most, so memory grows by one chunk. An error comes up where the chunk
    that failed would have been taken. The thread has ended when the block ends.
    """
    with ThreadPoolExecutor(1, "chunks") as pool:
        line = _Line(pool, tensors)
        try:
            yield [replace(t, chunks=partial(line.chunks, i)) for i, t in enumerate(tensors)]
        finally:
            pool.shutdown(cancel_futures=True)


class _Line:
    """All chunks of all tensors, in order."""

    def __init__(self, pool: ThreadPoolExecutor, tensors: Sequence[PlannedTensor]) -> None:
        self._pool = pool
        self._all = ((i, chunk) for i, tensor in enumerate(tensors) for chunk in tensor.chunks())
        self._next: Future[tuple[int, Chunk] | None] | None = None

    def chunks(self, index: int) -> Iterator[Chunk]:
        """Those of tensor `index`, whose turn it is."""
        while True:
            if self._next is None:
                self._next = self._pool.submit(next, self._all, None)
            found = self._next.result()
            if found is None or found[0] != index:
                return
            self._next = self._pool.submit(next, self._all, None)
            yield found[1]
