"""The next chunks of weights are made while the last one is written."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from alpage.weights.gguf_write import PlannedTensor
from alpage.weights.tensor import TensorType

Chunk = NDArray[np.uint8]
Make = Callable[[], Chunk]
"""Makes one chunk, in whatever thread it is called."""


@dataclass(frozen=True, slots=True)
class Work:
    """A tensor to be made: `name`, `shape` and `type` as in `PlannedTensor`.

    `pieces` gives functions that make its chunks, in the order of the file; it is called once.
    `done` is called when the last chunk has been used.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    pieces: Callable[[], Iterator[Make]]
    done: Callable[[], None]


@contextmanager
def made_ahead(works: Sequence[Work], threads: int = 1) -> Iterator[list[PlannedTensor]]:
    """The tensors, to be written in this order; their chunks are made in `threads` other threads.

    At most `threads` + 1 chunks are made or waiting while one is written, and memory grows by
    those. An error comes up where the chunk that failed would have been taken. The threads have
    ended when the block ends.
    """
    with ThreadPoolExecutor(threads, "chunks") as pool:
        line = _Line(pool, works, threads + 1)
        try:
            yield [
                PlannedTensor(work.name, work.shape, work.type, partial(line.chunks, index))
                for index, work in enumerate(works)
            ]
        finally:
            pool.shutdown(cancel_futures=True)


class _Line:
    """All chunks of all tensors, in order."""

    def __init__(self, pool: ThreadPoolExecutor, works: Sequence[Work], length: int) -> None:
        self._pool = pool
        self._works = works
        self._length = length
        self._pieces = ((i, make) for i, work in enumerate(works) for make in work.pieces())
        self._waiting: deque[tuple[int, Future[Chunk]]] = deque()

    def chunks(self, index: int) -> Iterator[Chunk]:
        """Those of tensor `index`, whose turn it is."""
        self._fill()
        while self._waiting and self._waiting[0][0] == index:
            chunk = self._waiting.popleft()[1].result()
            self._fill()
            yield chunk
        self._works[index].done()

    def _fill(self) -> None:
        while len(self._waiting) < self._length:
            found = next(self._pieces, None)
            if found is None:
                return
            self._waiting.append((found[0], self._pool.submit(found[1])))
