"""Encoding weights: exact layouts, errors no larger than llama.cpp's, every instruction set."""

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from alpage import _native
from alpage.core.errors import FormatError, InternalError
from alpage.weights.dequantize import dequantize_blocks
from alpage.weights.quantize import ENCODED, as_float32, encode
from alpage.weights.tensor import TensorType

Floats = NDArray[np.float32]
BLOCKS = [kind for kind in ENCODED if kind.block_size > 1]
ROWS, COLUMNS = 48, 1536


def name_of(kind: TensorType) -> str:
    return kind.name


def weights(seed: int = 3, scale: float = 0.02) -> Floats:
    rng = np.random.default_rng(seed)
    spread = rng.lognormal(0, 0.5, (ROWS, 1))  # rows of a trained model differ in size
    return (rng.standard_normal((ROWS, COLUMNS)) * spread * scale).astype(np.float32)


def costs() -> Floats:
    return np.random.default_rng(4).lognormal(0, 1.5, COLUMNS).astype(np.float32)


def decoded(raw: NDArray[np.uint8], kind: TensorType, shape: tuple[int, int]) -> Floats:
    out = np.empty(shape, np.float32)
    dequantize_blocks(kind.name, raw, out.reshape(-1))
    return out


def error(raw: NDArray[np.uint8], kind: TensorType, x: Floats, cost: Any = 1.0) -> float:
    difference = x.astype(np.float64) - decoded(raw, kind, x.shape)
    return float(np.sqrt((difference**2 * cost).mean()))


def llamacpp_bytes(x: Floats, kind: TensorType, cost: Floats | None) -> NDArray[np.uint8]:
    """llama.cpp's own quantisation of the same rows."""
    llama_cpp: Any = pytest.importorskip("llama_cpp")
    folder = Path(llama_cpp.__file__).parent / "lib"
    library: Any = ctypes.CDLL(str(next(folder.glob("libggml-base.*"))))
    floats = ctypes.POINTER(ctypes.c_float)
    quantise = library.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, *[ctypes.c_int64] * 3, floats]
    out = np.zeros(x.shape[0] * kind.row_bytes(x.shape[1]), np.uint8)
    importance = None if cost is None else cost.ctypes.data_as(floats)
    rows, columns = x.shape
    size = quantise(
        int(kind), x.ctypes.data_as(floats), out.ctypes.data, 0, rows, columns, importance
    )
    assert size == out.size
    return out


@pytest.mark.parametrize("kind", BLOCKS, ids=name_of)
def test_the_error_is_no_larger_than_that_of_llamacpp(kind: TensorType) -> None:
    x, cost = weights(), costs()
    theirs = error(llamacpp_bytes(x, kind, None), kind, x)
    assert error(encode(x, kind), kind, x) <= theirs
    theirs = error(llamacpp_bytes(x, kind, cost), kind, x, cost)
    assert error(encode(x, kind, cost), kind, x, cost) <= theirs


@pytest.mark.parametrize("kind", BLOCKS, ids=name_of)
def test_importance_lowers_the_weighted_error(kind: TensorType) -> None:
    x, cost = weights(), costs()
    plain, weighted = encode(x, kind), encode(x, kind, cost)
    if kind is TensorType.Q8_0:
        assert np.array_equal(plain, weighted)
        return
    assert error(weighted, kind, x, cost) < 0.97 * error(plain, kind, x, cost)
    # Equal importance is none; all zero says nothing.
    equal = error(encode(x, kind, np.full(COLUMNS, 7, np.float32)), kind, x)
    assert equal <= error(plain, kind, x) * 1.0001
    assert np.array_equal(
        encode(x, kind, np.zeros(COLUMNS, np.float32)),
        encode(x, kind, np.ones(COLUMNS, np.float32)),
    )


@pytest.mark.parametrize("kind", ENCODED, ids=name_of)
def test_other_readers_see_the_same_numbers(kind: TensorType) -> None:
    x = weights()
    raw = encode(x, kind)
    theirs = gguf.quants.dequantize(
        raw.reshape(ROWS, -1) if kind is not TensorType.F32 else x, gguf.GGMLQuantizationType(kind)
    )
    assert np.array_equal(decoded(raw, kind, x.shape), theirs.reshape(x.shape))
    largest = np.abs(x).max()
    assert np.abs(theirs.reshape(x.shape) - x).max() <= 0.15 * largest


@pytest.mark.parametrize("kind", ENCODED, ids=name_of)
def test_bytes_depend_on_neither_threads_nor_instruction_set(kind: TensorType) -> None:
    x, cost = weights(), costs()
    for importance in (None, cost):
        wanted = encode(x, kind, importance, threads=1, isa="scalar")
        for isa in _native.available_isas():
            assert np.array_equal(encode(x, kind, importance, threads=3, isa=isa), wanted)
    # A row's bytes depend on that row alone.
    assert np.array_equal(encode(x[5:6], kind, cost), encode(x, kind, cost).reshape(ROWS, -1)[5])


@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.BF16], ids=name_of)
def test_floats_are_rounded_as_others_round_them(kind: TensorType) -> None:
    x = np.concatenate([weights(), weights(scale=1e-6), weights(scale=1e3)])
    theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType(kind))
    assert np.array_equal(encode(x, kind), theirs.reshape(-1).view(np.uint8))


def test_q4_0_without_importance_is_the_formats_own() -> None:
    x = np.concatenate([weights(), weights(scale=1e-7), weights(scale=1e4)])
    x[0] = 0
    x[1, ::3] = 0.5
    x[2, ::5] = -0.5
    theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(encode(x, TensorType.Q4_0), theirs.reshape(-1))


@pytest.mark.parametrize("kind", ENCODED, ids=name_of)
def test_halves_go_in_as_they_are(kind: TensorType) -> None:
    x = weights()
    halves = x.astype(np.float16)
    bf16 = encode(x, TensorType.BF16).view(np.uint16).reshape(x.shape)
    for values in (halves, bf16):
        assert np.array_equal(encode(values, kind), encode(as_float32(values), kind))


@pytest.mark.parametrize(
    "kind", [TensorType.Q4_0, TensorType.Q5_0, TensorType.Q4_1, TensorType.Q5_1, TensorType.Q8_0],
    ids=name_of,
)  # fmt: skip
def test_numbers_of_a_type_keep_their_values(kind: TensorType) -> None:
    stored = decoded(llamacpp_bytes(weights(), kind, None), kind, (ROWS, COLUMNS))
    for cost in (None, costs()):
        assert np.array_equal(decoded(encode(stored, kind, cost), kind, stored.shape), stored)


@pytest.mark.parametrize("kind", ENCODED, ids=name_of)
def test_what_cannot_be_stored_is_said(kind: TensorType) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        x = weights()
        x[7, 300] = bad
        with pytest.raises(FormatError, match=rf"weight \[7, 300\] is {bad}"):
            encode(x, kind)
    if kind is TensorType.F32:
        return
    x[7, 300] = -3.4e38
    with pytest.raises(FormatError, match=f"weights up to 3.4e[+]38 are too large for {kind.name}"):
        encode(x, kind)


def test_rows_and_types_that_do_not_fit() -> None:
    with pytest.raises(FormatError, match="a row of 48 weights is not a whole number of Q4_0"):
        encode(np.zeros((2, 48), np.float32), TensorType.Q4_0)
    assert encode(np.zeros((0, 32), np.float32), TensorType.Q4_0).shape == (0,)
    strange = next((kind for kind in TensorType if kind not in ENCODED), None)
    if strange is not None:
        with pytest.raises(InternalError, match="are read, not made"):
            encode(np.zeros((1, 256), np.float32), strange)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 3}, "rows \\* columns"),
        ({"rows": -2, "columns": -64}, "rows \\* columns"),
        ({"to_type": 12}, "out must have the size|whole number of blocks"),
        ({"to_type": 99}, "unknown tensor type"),
        ({"from_type": 8}, "weights must be F32|rows \\* columns"),
        ({"threads": 0}, "threads must be"),
        ({"isa": "sse9"}, "unknown instruction set"),
        ({"out": np.zeros(71, np.uint8)}, "out must have the size"),
        ({"importance": np.ones(63, np.float32)}, "one number a column"),
        ({"importance": np.full(64, np.nan, np.float32)}, "finite and not negative"),
        ({"importance": np.full(64, -1, np.float32)}, "finite and not negative"),
    ],
)
def test_the_binding_checks_its_arguments(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "weights": np.zeros(2 * 64 * 4, np.uint8), "from_type": 0, "rows": 2, "columns": 64,
        "to_type": 2, "importance": None, "threads": 1, "isa": "", "out": np.zeros(72, np.uint8),
    }  # fmt: skip
    assert _native.encode(**given) == 0
    with pytest.raises(ValueError, match=message):
        _native.encode(**(given | changes))
