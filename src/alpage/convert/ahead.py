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


class Buffers:
    """Memory of chunks that have been written, for the next ones: new pages cost more than that."""

    def __init__(self) -> None:
        self._owned: dict[int, Chunk] = {}
        self._free: deque[Chunk] = deque()

    def take(self, nbytes: int) -> Chunk:
        """Memory for a chunk, uint8 [nbytes] of any contents; in any thread."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(0, np.uint8)
        if buffer.size < nbytes:
            self._owned.pop(id(buffer), None)
            buffer = np.empty(nbytes, np.uint8)
            self._owned[id(buffer)] = buffer
        return buffer[:nbytes]

    def give(self, chunk: Chunk) -> None:
        """Takes the memory of `chunk` back if it is from here; nobody may look at it any more."""
        if self._owned.get(id(chunk.base)) is chunk.base and isinstance(chunk.base, np.ndarray):
            self._free.append(chunk.base)


@contextmanager
def made_ahead(
    works: Sequence[Work], threads: int = 1, buffers: Buffers | None = None
) -> Iterator[list[PlannedTensor]]:
    """The tensors, to be written in this order; their chunks are made in `threads` other threads.

    The first ones begin at once, beside what the block does before it asks for them.
    At most `threads` + 1 chunks are made or waiting while one is written, and memory grows by
    those. A chunk may be looked at until the next one is taken: then its memory goes back to
    `buffers`. An error comes up where the chunk that failed would have been taken. The threads
    have ended when the block ends.
    """
    with ThreadPoolExecutor(threads, "chunks") as pool:
        line = _Line(pool, works, threads + 1, Buffers() if buffers is None else buffers)
        try:
            line.fill()
            yield [
                PlannedTensor(work.name, work.shape, work.type, partial(line.chunks, index))
                for index, work in enumerate(works)
            ]
        finally:
            pool.shutdown(cancel_futures=True)


class _Line:
    """All chunks of all tensors, in order."""

    def __init__(
        self, pool: ThreadPoolExecutor, works: Sequence[Work], length: int, buffers: Buffers
    ) -> None:
        self._pool = pool
        self._works = works
        self._length = length
        self._buffers = buffers
        self._pieces = ((i, make) for i, work in enumerate(works) for make in work.pieces())
        self._waiting: deque[tuple[int, Future[Chunk]]] = deque()

    def chunks(self, index: int) -> Iterator[Chunk]:
        """Those of tensor `index`, whose turn it is."""
        self.fill()
        while self._waiting and self._waiting[0][0] == index:
            chunk = self._waiting.popleft()[1].result()
            self.fill()
            yield chunk
            self._buffers.give(chunk)
        self._works[index].done()

    def fill(self) -> None:
        """Begin as many chunks as may be ahead."""
        while len(self._waiting) < self._length:
            found = next(self._pieces, None)
            if found is None:
                return
            self._waiting.append((found[0], self._pool.submit(found[1])))
