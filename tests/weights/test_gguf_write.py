"""What is written is read back value for value, by Alpage and by the `gguf` package."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.weights.gguf_files import quantised

from alpage.core.errors import InternalError, UnsupportedError
from alpage.weights.gguf import read_header, read_tensors
from alpage.weights.gguf_write import PlannedTensor, write_gguf
from alpage.weights.mapped import MappedFile
from alpage.weights.tensor import TensorType

RANGES = {0: (0, 255), 1: (-128, 127), 2: (0, 65535), 3: (-32768, 32767), 4: (0, 2**32 - 1),
          5: (-(2**31), 2**31 - 1), 10: (0, 2**64 - 1), 11: (-(2**63), 2**63 - 1)}  # fmt: skip


def planned(name: str, shape: tuple[int, ...], kind: TensorType, cut: int = 1000) -> PlannedTensor:
    data = np.frombuffer(quantised(kind, shape), np.uint8)

    def chunks() -> Iterator[NDArray[np.uint8]]:
        return (data[at : at + cut] for at in range(0, data.size, cut))

    return PlannedTensor(name, shape, kind, chunks)


def values(kind: int) -> st.SearchStrategy[Any]:
    if kind in RANGES:
        return st.integers(*RANGES[kind])
    if kind == 6:
        return st.floats(width=32, allow_nan=False)
    if kind == 12:
        return st.floats(allow_nan=False)
    if kind == 7:
        return st.booleans()
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


SCALARS = [*RANGES, 6, 7, 8, 12]


@st.composite
def entries(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    kind = draw(st.sampled_from(SCALARS))
    depth = draw(st.integers(0, 2))
    value = values(kind)
    for _ in range(depth):
        value = st.lists(value, min_size=1, max_size=4)
    return (*(9,) * depth, kind), draw(value)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text("abc.", min_size=1, max_size=20), entries(), max_size=8))
def test_metadata_comes_back_with_its_kinds(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, tuple[tuple[int, ...], Any]]
) -> None:
    buffer = io.BytesIO()
    write_gguf(buffer, metadata, [planned("a", (4,), TensorType.F32)])
    path = tmp_path_factory.mktemp("g") / "x.gguf"
    path.write_bytes(buffer.getvalue())
    header = read_header(MappedFile(path))
    assert {k: (header.kinds[k], header.metadata[k]) for k in header.metadata} == metadata


@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_tensors_are_read_by_both_readers(tmp_path: Path, alignment: int) -> None:
    tensors = [
        planned("vector", (7,), TensorType.F32),
        *(planned(kind.name, (3, 512), kind) for kind in TensorType),
    ]
    path = tmp_path / "x.gguf"
    heard: list[tuple[int, int]] = []
    metadata = {"general.architecture": ((8,), "llama"), "list": ((9, 8), ["a", "ü"])}
    with path.open("wb") as file:
        write_gguf(
            file, metadata, tensors, alignment=alignment, progress=lambda *at: heard.append(at)
        )
    ours = read_tensors(MappedFile(path), read_header(MappedFile(path)))
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert list(ours) == list(theirs) == [tensor.name for tensor in tensors]
    for tensor in tensors:
        wanted = np.concatenate(list(tensor.chunks()))
        assert (ours[tensor.name].shape, ours[tensor.name].type) == (tensor.shape, tensor.type)
        assert np.array_equal(ours[tensor.name].data, wanted)
        assert theirs[tensor.name].tensor_type.value == int(tensor.type)
        assert np.array_equal(theirs[tensor.name].data.reshape(-1).view(np.uint8), wanted)
    total = sum(tensor.nbytes for tensor in tensors)
    assert heard[-1] == (total, total) and heard == sorted(heard)


@pytest.mark.parametrize(("change", "words"), [(-4, "-4 bytes more"), (4, "+4 bytes more")])
def test_a_tensor_of_another_size_than_announced_is_a_bug(change: int, words: str) -> None:
    data = np.zeros(16 + change, np.uint8)
    tensor = PlannedTensor("a", (4,), TensorType.F32, lambda: iter([data]))
    with pytest.raises(InternalError, match=words.replace("+", r"\+")):
        write_gguf(io.BytesIO(), {}, [tensor])


@pytest.mark.parametrize(
    ("kinds", "value"),
    [((4,), -1), ((4,), "text"), ((8,), 5), ((9, 4), [1, -1]), ((9, 9), [[1], ["a"]]), ((99,), 1),
     ((9, 4), 5), ((8,), "\ud800")],
)  # fmt: skip
def test_a_value_that_does_not_fit_its_kind_is_refused(kinds: tuple[int, ...], value: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"'some\.key'"):
        write_gguf(io.BytesIO(), {"some.key": (kinds, value)}, [])
