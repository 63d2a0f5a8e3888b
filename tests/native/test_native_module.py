"""The bindings: wrong arguments are Python exceptions, never crashes; what results may be kept."""

import gc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alpage import _native

VOCAB, DIM, HEADS, KV_HEADS, HEAD_DIM, FFN, PAGES = 40, 32, 4, 2, 8, 48, 4
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB, "dim": DIM, "n_layers": 1, "n_heads": HEADS, "n_kv_heads": KV_HEADS,
    "head_dim": HEAD_DIM, "ffn_dim": FFN, "norm_eps": 1e-5,
    "inverse_frequencies": [1.0, 0.1, 0.01, 0.001], "threads": 2, "isa": "",
}  # fmt: skip
MATRICES = {
    "tok_embeddings": (VOCAB, DIM), "wq": (HEADS * HEAD_DIM, DIM), "wk": (KV_HEADS * HEAD_DIM, DIM),
    "wv": (KV_HEADS * HEAD_DIM, DIM), "wo": (DIM, HEADS * HEAD_DIM), "w1": (FFN, DIM),
    "w3": (FFN, DIM), "w2": (DIM, FFN),
}  # fmt: skip
VECTORS = ("attention_norm", "ffn_norm", "norm")


def empty(**changes: Any) -> Any:
    return _native.Model(**(SHAPE | changes))


def as_bytes(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    return weights.reshape(-1).view(np.uint8)


def build(**changes: Any) -> Any:
    model, rng = empty(**changes), np.random.default_rng(1)
    for name, shape in MATRICES.items():
        weights = (rng.standard_normal(shape) / 6).astype(np.float32)
        assert model.set_matrix(name, 0, 0, *shape, as_bytes(weights), None)
    for name in VECTORS:
        assert model.set_vector(name, 0, np.ones(DIM, np.float32))
    model.finish(PAGES)
    return model


def ids(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


BATCH: dict[str, Any] = {
    "tokens": ids(1, 2, 3), "positions": ids(0, 1, 2), "sequences": ids(0, 0, 0),
    "page_tables": ids(2)[None], "outputs": ids(0, 1, 2), "hidden": False,
}  # fmt: skip


def run(model: Any, **changes: Any) -> NDArray[np.float32]:
    result: NDArray[np.float32] = model.forward(**(BATCH | changes))
    return result


def test_facts_of_the_module() -> None:
    assert _native.PAGE_TOKENS == 16
    names = _native.available_isas()
    assert names[0] == "scalar"
    model = build()
    assert (model.isa, model.threads) == (names[-1], 2)
    # Words of two bytes and, for each 32, a scale.
    assert model.weight_bytes >= sum(
        rows * columns * 66 // 32 for rows, columns in MATRICES.values()
    )
    assert model.cache_bytes >= PAGES * 16 * KV_HEADS * HEAD_DIM * 2 * 2
    for name in names:
        assert build(isa=name).isa == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "model sizes must be 1 to"),
        ({"vocab_size": -5}, "model sizes must be 1 to"),
        ({"ffn_dim": 1 << 31}, "model sizes must be 1 to"),
        ({"n_kv_heads": 3}, "multiple of key/value heads"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"inverse_frequencies": [1.0]}, "must have head_dim / 2 values"),
        ({"threads": 0}, "threads must be 1 to 1024"),
        ({"threads": 4000}, "threads must be 1 to 1024"),
        ({"isa": "sse9"}, "unknown instruction set sse9"),
        ({"n_heads": 1 << 30, "head_dim": 8}, "heads x head_dim"),
    ],
)
def test_impossible_models(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        empty(**changes)


def test_arguments_of_a_wrong_kind() -> None:
    model = build()
    data = np.zeros(DIM * DIM * 4, np.uint8)
    for call in (
        lambda: empty(dim=1.5),
        lambda: empty(dim=1 << 70),
        lambda: empty(isa=None),
        lambda: model.set_matrix("wq", 0, 0, DIM, DIM, data[None], None),
        lambda: model.set_matrix("wq", 0, 0, DIM, DIM, data, ids(0)[None]),
        lambda: model.set_vector("norm", 0, [1.0] * DIM),
        lambda: model.set_vector("norm", 0, np.ones((1, DIM), np.float32)),
        lambda: model.finish("many"),
        lambda: run(model, tokens=[1, 2, 3]),
        lambda: run(model, tokens=ids(1, 2, 3)[None]),
        lambda: run(model, page_tables=ids(2)),
        lambda: run(model, outputs=None),
    ):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            call()
    wanted = run(model).copy()  # other number types and strides are converted, not misread
    assert np.array_equal(run(model, tokens=ids(1, 9, 2, 9, 3)[::2]), wanted)
    assert np.array_equal(run(model, tokens=np.array([1, 2, 3], np.int64)), wanted)


@pytest.mark.parametrize(
    ("name", "layer", "kind", "shape", "size", "order", "message"),
    [
        ("wz", 0, 0, (32, 32), 4096, None, "unknown matrix wz"),
        ("wq", 1, 0, (32, 32), 4096, None, "no layer 1"),
        ("wq", -1, 0, (32, 32), 4096, None, "no layer -1"),
        ("wq", 0, 0, (32, 33), 4224, None, "wq must be 32 x 32, not 32 x 33"),
        ("wq", 0, 0, (-32, -32), 4096, None, "wq must be 32 x 32"),
        ("wq", 0, 0, (32, 32), 4095, None, "4095 bytes are not"),
        ("wq", 0, 0, (32, 32), 0, None, "0 bytes are not"),
        ("wq", 0, 4, (32, 32), 4096, None, "unknown tensor type"),
        ("wq", 0, -1, (32, 32), 4096, None, "unknown tensor type"),
        ("wq", 0, 12, (32, 32), 576, None, "no whole number of blocks|bytes are not"),
        ("w2", 0, 8, (32, 48), 1632, None, "no whole number of blocks|bytes are not"),
        ("wq", 0, 0, (32, 32), 4096, ids(*range(31)), "one entry a row"),
        ("wq", 0, 0, (32, 32), 4096, ids(*range(31), 32), "out of range"),
        ("wq", 0, 0, (32, 32), 4096, ids(*range(31), -1), "out of range"),
    ],
)
def test_wrong_matrices(
    name: str, layer: int, kind: int, shape: tuple[int, int], size: int,
    order: NDArray[np.int32] | None, message: str,
) -> None:  # fmt: skip
    model = build()
    before = run(model).copy()
    with pytest.raises(ValueError, match=message):
        model.set_matrix(name, layer, kind, *shape, np.zeros(size, np.uint8), order)
    assert np.array_equal(run(model), before)


def test_wrong_vectors_and_pages() -> None:
    model = build()
    for name, layer, size, message in (
        ("norm", 0, 31, "norm must have dim values"),
        ("no_norm", 0, 32, "unknown vector"),
        ("ffn_norm", 1, 32, "no layer 1"),
    ):
        with pytest.raises(ValueError, match=message):
            model.set_vector(name, layer, np.ones(size, np.float32))
    for pages in (0, -1, (1 << 31) + 1):
        with pytest.raises(ValueError, match="pages must be"):
            model.finish(pages)
    with pytest.raises(MemoryError):
        build(n_layers=1).finish(1 << 31)  # 1 TB of cache
    unfinished = empty()
    with pytest.raises(ValueError, match="weights are missing"):
        unfinished.finish(PAGES)
    with pytest.raises(ValueError, match="finish\\(\\) comes before forward"):
        run(unfinished)


def test_weights_that_are_not_finite_are_reported() -> None:
    model = empty()
    weights = np.zeros(MATRICES["wq"], np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        weights[31, 31] = bad
        assert not model.set_matrix("wq", 0, 0, *weights.shape, as_bytes(weights), None)
        vector = np.full(DIM, bad, np.float32)
        assert not model.set_vector("norm", 0, vector)
    weights[31, 31] = 3e38
    assert model.set_matrix("wq", 0, 0, *weights.shape, as_bytes(weights), None)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokens": ids(1, 2, VOCAB)}, IndexError, f"token {VOCAB}"),
        ({"tokens": ids(1, -1, 2)}, IndexError, "token -1"),
        ({"tokens": ids(1, 2)}, ValueError, "must have the same length"),
        ({"positions": ids(0, 1)}, ValueError, "must have the same length"),
        ({"sequences": ids(0, 0, 0, 0)}, ValueError, "must have the same length"),
        ({"tokens": ids(), "positions": ids(), "sequences": ids(), "outputs": ids()}, ValueError,
         "a batch needs rows"),
        ({"positions": ids(0, 2, 3)}, ValueError, "consecutive"),
        ({"positions": ids(2, 1, 0)}, ValueError, "consecutive"),
        ({"positions": ids(-1, 0, 1)}, IndexError, "position -1"),
        ({"positions": ids(14, 15, 16)}, IndexError, "position 16"),
        ({"positions": ids(*[2**31 - 3, 2**31 - 2, 2**31 - 1])}, IndexError, "position"),
        ({"sequences": ids(0, 0, 1)}, IndexError, "sequence 1"),
        ({"sequences": ids(-1, -1, -1)}, IndexError, "sequence -1"),
        ({"page_tables": ids(-1)[None]}, IndexError, "page -1"),
        ({"page_tables": ids(PAGES)[None]}, IndexError, f"page {PAGES}"),
        ({"page_tables": np.empty((0, 1), np.int32)}, IndexError, "sequence 0"),
        ({"page_tables": np.empty((1, 0), np.int32)}, IndexError, "position 0"),
        ({"outputs": ids(3)}, IndexError, "output row 3"),
        ({"outputs": ids(-1)}, IndexError, "output row -1"),
    ],
)  # fmt: skip
def test_wrong_batches(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    model = build()
    before = run(model).copy()
    with pytest.raises(error, match=message):
        run(model, **changes)
    assert np.array_equal(run(model), before)


def test_a_page_before_the_last_must_be_there_too() -> None:
    model = build()
    late = {"positions": ids(16, 17, 18)}
    with pytest.raises(IndexError, match="page -1"):
        run(model, **late, page_tables=ids(-1, 2)[None])
    assert run(model, **late, page_tables=ids(1, 2)[None]).shape == (3, VOCAB)


def test_the_result_is_a_view_until_the_next_call() -> None:
    model = build()
    logits = run(model)
    assert logits.shape == (3, VOCAB)
    assert logits.dtype == np.float32
    kept = logits.copy()
    last = run(model, outputs=ids(2, 0))
    assert last.ctypes.data == logits.ctypes.data  # one buffer, used again
    assert np.array_equal(last, kept[[2, 0]])
    assert not np.array_equal(logits[:2], kept[:2])
    states = run(model, hidden=True)
    assert states.shape == (3, DIM)
    assert np.array_equal(run(model), kept)


def test_nothing_wanted_gives_nothing_but_fills_the_cache() -> None:
    model = build()
    whole = run(model)[2].copy()
    assert run(model, tokens=ids(9, 9, 9)).shape == (3, VOCAB)
    for hidden, width in ((False, VOCAB), (True, DIM)):
        assert run(model, outputs=ids(), hidden=hidden).shape == (0, width)
    one = run(
        model, tokens=ids(3), positions=ids(2), sequences=ids(0), outputs=ids(0)
    )  # the two before it are in the page
    assert np.array_equal(one[0], whole)


def test_models_come_and_go() -> None:
    logits = run(build())  # keeps its model
    gc.collect()
    wanted = logits.copy()
    for threads in (1, 2, 3, 1, 2):
        model = build(threads=threads)
        assert np.array_equal(run(model), wanted)
        model.finish(PAGES)  # a new, empty cache
        assert np.array_equal(run(model), wanted)
        del model
        gc.collect()
    assert np.array_equal(logits, wanted)
