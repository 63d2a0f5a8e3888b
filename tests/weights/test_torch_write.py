"""Checkpoints and safetensors that are written here are read by PyTorch, safetensors and Alpage."""

import io
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.weights.test_gguf_write import planned

from alpage.core.errors import UnsupportedError
from alpage.weights.gguf_write import PlannedTensor
from alpage.weights.mapped import MappedFile
from alpage.weights.safetensors import read_safetensors
from alpage.weights.safetensors_write import write_safetensors
from alpage.weights.tensor import TensorType
from alpage.weights.torch_file import read_torch
from alpage.weights.torch_write import write_torch

DTYPES = {
    TensorType.F32: torch.float32, TensorType.F16: torch.float16, TensorType.BF16: torch.bfloat16,
}  # fmt: skip
TENSORS = [
    planned("a.weight", (3, 5), TensorType.BF16),
    planned("b", (7,), TensorType.F32),
    planned("long", (300, 40), TensorType.F16, cut=77),
    planned("last", (1, 1), TensorType.BF16),
]


def bits(tensor: PlannedTensor) -> bytes:
    return b"".join(chunk.tobytes() for chunk in tensor.chunks())


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_reads_what_is_written(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "x.pth"
    heard: list[tuple[int, int]] = []
    with path.open("wb") as file:
        write_torch(file, TENSORS, shared={"twin": "long"}, progress=lambda *at: heard.append(at))
    table = torch.load(path, weights_only=True, mmap=mapped)
    assert list(table) == ["a.weight", "b", "long", "last", "twin"]
    for tensor in TENSORS:
        found = table[tensor.name]
        assert (tuple(found.shape), found.dtype) == (tensor.shape, DTYPES[tensor.type])
        assert found.contiguous().view(torch.uint8).numpy().tobytes() == bits(tensor)
    assert table["twin"].data_ptr() == table["long"].data_ptr()
    assert heard[-1][0] == heard[-1][1] == sum(tensor.nbytes for tensor in TENSORS)
    ours = read_torch(MappedFile(path))
    assert list(ours) == list(table)
    for tensor in TENSORS:
        assert ours[tensor.name].rows.tobytes() == bits(tensor)
        assert ours[tensor.name].rows.__array_interface__["data"][0] % 64 == 0


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        write_safetensors(file, TENSORS)
    table = safetensors.torch.load_file(path)
    ours = read_safetensors(MappedFile(path))
    assert table.keys() == ours.keys() == {tensor.name for tensor in TENSORS}
    for tensor in TENSORS:
        found = table[tensor.name]
        assert (tuple(found.shape), found.dtype) == (tensor.shape, DTYPES[tensor.type])
        assert found.view(torch.uint8).numpy().tobytes() == bits(tensor)
        assert np.array_equal(ours[tensor.name].data, np.frombuffer(bits(tensor), np.uint8))


def test_quantised_weights_are_refused() -> None:
    tensors = [planned("q", (2, 32), TensorType.Q4_0)]
    for write in (write_torch, write_safetensors):
        with pytest.raises(UnsupportedError, match="q is Q4_0"):
            write(io.BytesIO(), tensors)
