"""Chunks made ahead are the same ones, in order, and errors come up in their place."""

import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from alpage.convert.ahead import Buffers, Make, Work, made_ahead
from alpage.weights.gguf_write import PlannedTensor
from alpage.weights.tensor import TensorType

THREADS = (1, 3)


def work(name: str, *chunks: bytes | Exception, done: list[str] | None = None) -> Work:
    def make(chunk: bytes | Exception) -> NDArray[np.uint8]:
        if isinstance(chunk, Exception):
            raise chunk
        time.sleep(0.002 if chunk in (b"1", b"3") else 0)  # the later ones are ready earlier
        return np.frombuffer(chunk, np.uint8)

    def pieces() -> Iterator[Make]:
        return (partial(make, chunk) for chunk in chunks)

    return Work(name, (1,), TensorType.F32, pieces, lambda: (done or []).append(name))


def read(tensor: PlannedTensor) -> list[bytes]:
    return [chunk.tobytes() for chunk in tensor.chunks()]


@pytest.mark.parametrize("threads", THREADS)
def test_the_same_chunks_in_order(threads: int) -> None:
    done = ["began"]
    works = [
        work("a", b"1", b"22", done=done),
        work("b", done=done),
        work("c", *[b"3", b"4", b"5"] * 9, done=done),
        work("d", b"6", done=done),
    ]
    with made_ahead(works, threads) as ahead:
        assert [tensor.name for tensor in ahead] == ["a", "b", "c", "d"]
        assert [read(tensor) for tensor in ahead[:3]] == [[b"1", b"22"], [], [b"3", b"4", b"5"] * 9]
        assert done == ["began", "a", "b", "c"]
        assert read(ahead[3]) == [b"6"]


@pytest.mark.parametrize("threads", THREADS)
def test_an_error_comes_up_in_its_place(threads: int) -> None:
    works = [work("a", b"1", b"2"), work("b", b"3", KeyError("x"))]
    with made_ahead(works, threads) as ahead:
        assert read(ahead[0]) == [b"1", b"2"]
        chunks = ahead[1].chunks()
        assert next(chunks).tobytes() == b"3"
        with pytest.raises(KeyError):
            next(chunks)


@pytest.mark.parametrize("threads", THREADS)
def test_the_line_is_short(threads: int) -> None:
    made = 0

    def make() -> NDArray[np.uint8]:
        nonlocal made
        made += 1
        return np.zeros(1, np.uint8)

    endless = Work("a", (1,), TensorType.F32, lambda: iter(lambda: make, None), lambda: None)
    with made_ahead([endless], threads) as ahead:
        chunks = ahead[0].chunks()
        for _ in range(5):
            next(chunks)
        time.sleep(0.05)
        assert made <= 5 + threads + 1


def test_the_threads_end_with_the_block() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="full"), made_ahead([work("a", b"1", b"2")], 3) as ahead:
        next(ahead[0].chunks())
        raise OSError("full")
    assert threading.active_count() == before


def test_memory_of_chunks_serves_again() -> None:
    buffers = Buffers()
    places = set()

    def make(size: int) -> NDArray[np.uint8]:
        chunk = buffers.take(size)
        places.add(chunk.__array_interface__["data"][0])
        chunk[:] = size
        return chunk

    def pieces() -> Iterator[Make]:
        return (partial(make, size) for size in (100, 90, 100, 80) * 20)

    with made_ahead([Work("a", (1,), TensorType.F32, pieces, lambda: None)], 2, buffers) as ahead:
        for chunk, size in zip(ahead[0].chunks(), (100, 90, 100, 80) * 20, strict=True):
            assert chunk.tobytes() == bytes([size]) * size
    assert len(places) <= 12
    foreign = np.zeros(100, np.uint8)
    buffers.give(foreign)
    buffers.give(foreign[:50])
    assert all(buffers.take(10).base is not foreign for _ in range(8))
