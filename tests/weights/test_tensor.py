"""Every weight type against the `gguf` package, bit for bit."""

import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from alpage.core.errors import FormatError
from alpage.weights import tensor as tensor_module
from alpage.weights.dequantize import BLOCK_LAYOUTS
from alpage.weights.source import open_model
from alpage.weights.tensor import Tensor, TensorType

TYPES = list(TensorType)
HALVES = [0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 1.0, -1.0, 65504.0, -65504.0, np.inf, -np.inf, np.nan]


def theirs(raw: NDArray[np.uint8], kind: TensorType, rows: int) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        found: Any = gguf.quants.dequantize(
            raw.reshape(rows, -1), gguf.GGMLQuantizationType(int(kind))
        )
    return np.asarray(found, dtype=np.float32)


def assert_same_bits(ours: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == other.shape
    different = np.flatnonzero(ours.view(np.uint32) != other.view(np.uint32))
    nan = np.isnan(ours).reshape(-1)[different] & np.isnan(other).reshape(-1)[different]
    # Which of two NaNs survives an operation is the processor's choice.
    assert nan.all(), f"{(~nan).sum()} of {ours.size} weights differ"


def matrix(kind: TensorType, rows: int, columns: int, raw: NDArray[np.uint8]) -> Tensor:
    return Tensor("test", (rows, columns), kind, raw)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", range(3))
def test_random_blocks_match_to_the_last_bit(kind: TensorType, seed: int) -> None:
    rows, columns = 96, 2048
    raw = np.random.default_rng(seed).integers(0, 256, rows * kind.row_bytes(columns), np.uint8)
    assert_same_bits(matrix(kind, rows, columns, raw).dequantize(), theirs(raw, kind, rows))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_extreme_scales_match_to_the_last_bit(kind: TensorType) -> None:
    layout = BLOCK_LAYOUTS[kind.name]
    rng = np.random.default_rng(7)
    count = len(HALVES) ** 2
    raw = rng.integers(0, 256, count * layout.dtype.itemsize, np.uint8)
    blocks = raw.view(layout.dtype)
    halves = np.array(HALVES, dtype=np.float16)
    first, second = np.meshgrid(halves, halves)
    names = layout.dtype.names or ()
    for name, values in (("d", first), ("m", second), ("dmin", second)):
        if name in names:
            blocks[name] = values.reshape(-1, 1)
    if kind in (TensorType.F32, TensorType.F16):
        blocks["x"] = first.reshape(-1, 1)
    ours = matrix(kind, count, layout.weights, raw).dequantize()
    assert_same_bits(ours, theirs(raw, kind, count))


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_numbers_match_and_are_near_the_originals(name: str) -> None:
    kind = TensorType[name]
    original = np.random.default_rng(3).standard_normal((64, 256), dtype=np.float32) * 0.05
    packed: Any = gguf.quants.quantize(original, gguf.GGMLQuantizationType(int(kind)))
    raw = np.ascontiguousarray(packed).view(np.uint8).reshape(-1)
    ours = matrix(kind, 64, 256, raw).dequantize()
    assert_same_bits(ours, theirs(raw, kind, 64))
    bits = {"F16": 11, "BF16": 8, "Q8_0": 7, "Q5_0": 4, "Q5_1": 4, "Q4_0": 3, "Q4_1": 3}[name]
    assert np.abs(ours - original).max() < np.abs(original).max() * 2.0**-bits


def test_the_default_model_matches_to_the_last_bit(smollm2_path: Path) -> None:
    kinds = set()
    with open_model(smollm2_path) as source:
        layer = [name for name in source.tensors if name.startswith("layers.7.")]
        for name in ["tok_embeddings.weight", "norm.weight", *layer]:
            tensor = source.tensors[name]
            kinds.add(tensor.type)
            raw = np.array(tensor.data[: tensor.row_bytes * min(tensor.rows, 2000)])
            part = matrix(tensor.type, raw.size // tensor.row_bytes, tensor.columns, raw)
            assert_same_bits(part.dequantize(), theirs(raw, tensor.type, part.rows))
    assert kinds == {TensorType.F32, TensorType.Q8_0, TensorType.Q4_1}


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_rows_come_in_canonical_order_whatever_the_chunk(
    kind: TensorType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = 53, 512
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 255, rows * kind.row_bytes(columns), np.uint8)
    plain = matrix(kind, rows, columns, raw).dequantize()
    order = rng.permutation(rows).astype(np.int32)
    shuffled = Tensor("test", (rows, columns), kind, raw, order)
    for chunk in (1, 700, 5000, 1 << 20):
        monkeypatch.setattr(tensor_module, "CHUNK_BYTES", chunk)
        assert_same_bits(matrix(kind, rows, columns, raw).dequantize(), plain)
        assert_same_bits(shuffled.dequantize(), plain[order])
        assert_same_bits(shuffled.dequantize_rows(10, 31), plain[order[10:31]])
    assert shuffled.dequantize_rows(5, 5).shape == (0, columns)
    with pytest.raises(IndexError):
        shuffled.dequantize_rows(10, rows + 1)


@pytest.mark.parametrize("ordered", [False, True])
def test_dequantising_takes_little_more_memory_than_its_result(ordered: bool) -> None:
    rows, columns = 4096, 2048
    kind = TensorType.Q4_K
    raw = np.zeros(rows * kind.row_bytes(columns), np.uint8)
    order = np.arange(rows, dtype=np.int32)[::-1].copy() if ordered else None
    tensor = Tensor("test", (rows, columns), kind, raw, order)
    tracemalloc.start()
    try:
        result = tensor.dequantize()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - result.nbytes < 16 << 20


def test_data_that_does_not_fit_the_shape_is_refused() -> None:
    with pytest.raises(FormatError, match=r"takes 128 bytes, not 100"):
        Tensor("t", (4, 8), TensorType.F32, np.zeros(100, np.uint8))
    with pytest.raises(FormatError, match="row of 40 weights is not a whole number of Q4_0 blocks"):
        TensorType.Q4_0.row_bytes(40)
    with pytest.raises(FormatError, match="has 4 rows but a row order of 3"):
        Tensor("t", (4, 1), TensorType.F32, np.zeros(16, np.uint8), np.arange(3, dtype=np.int32))


def test_block_sizes_are_those_of_gguf() -> None:
    for kind in TYPES:
        size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(int(kind))]
        assert (kind.block_size, kind.block_bytes) == size
        assert gguf.GGMLQuantizationType(int(kind)).name == kind.name
