"""Chunks made ahead are the same ones, in order, and errors come up in their place."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from alpage.convert.ahead import made_ahead
from alpage.weights.gguf_write import PlannedTensor
from alpage.weights.tensor import TensorType


def planned(name: str, *chunks: bytes | Exception) -> PlannedTensor:
    def make() -> Iterator[NDArray[np.uint8]]:
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield np.frombuffer(chunk, np.uint8)

    return PlannedTensor(name, (1,), TensorType.F32, make)


def read(tensor: PlannedTensor) -> list[bytes]:
    return [chunk.tobytes() for chunk in tensor.chunks()]


def test_the_same_chunks_in_order() -> None:
    tensors = [planned("a", b"1", b"22"), planned("b"), planned("c", b"3"), planned("d", b"4")]
    with made_ahead(tensors) as ahead:
        assert [tensor.name for tensor in ahead] == ["a", "b", "c", "d"]
        assert [read(tensor) for tensor in ahead] == [[b"1", b"22"], [], [b"3"], [b"4"]]


def test_an_error_comes_up_in_its_place() -> None:
    with made_ahead([planned("a", b"1", b"2"), planned("b", b"3", KeyError("x"))]) as ahead:
        assert read(ahead[0]) == [b"1", b"2"]
        chunks = ahead[1].chunks()
        assert next(chunks).tobytes() == b"3"
        with pytest.raises(KeyError):
            next(chunks)


def test_the_thread_ends_with_the_block() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="full"), made_ahead([planned("a", b"1", b"2")]) as ahead:
        next(ahead[0].chunks())
        raise OSError("full")
    assert threading.active_count() == before
