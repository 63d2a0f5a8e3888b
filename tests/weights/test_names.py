"""Names in every format, and the order of the rotary rows."""

import numpy as np
import pytest

from alpage.core.config import LlamaConfig
from alpage.weights.names import (
    Dialect,
    expected_shapes,
    from_canonical,
    half_from_interleaved,
    interleaved_from_half,
    rotary_heads,
    to_canonical,
)

CONFIG = LlamaConfig(
    vocab_size=50, dim=32, n_layers=12, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48,
    context_length=64,
)  # fmt: skip
DIALECTS: list[Dialect] = ["gguf", "huggingface"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_name_translates_there_and_back(dialect: Dialect) -> None:
    canonical = [name for name, _ in expected_shapes(CONFIG)]
    assert len(canonical) == 3 + 9 * 12
    assert len(set(canonical)) == len(canonical)
    names = [from_canonical(name, dialect) for name in canonical]
    assert len(set(names)) == len(names)
    assert [to_canonical(name, dialect) for name in names] == canonical


@pytest.mark.parametrize(
    "name", ["", "blk.", "blk.x.attn_q.weight", "blk.01.attn_q.weight", "blk.1.attn_q.bias",
             "blk.-1.attn_q.weight", "blk.9999999.attn_q.weight", "blk.1.attn_q_norm.weight",
             "model.layers.1.self_attn.q_proj.weight", "layers.1.attention.wq.weight",
             "blk.\u0661.attn_q.weight"],
)  # fmt: skip
def test_foreign_names_are_nobody(name: str) -> None:
    assert to_canonical(name, "gguf") is None


def test_canonical_names_that_do_not_exist_are_an_error() -> None:
    for name in ("layers.1.nothing.weight", "blk.0.attn_q.weight", "0.attention.wq.weight"):
        with pytest.raises(KeyError):
            from_canonical(name, "gguf")


def test_names_of_real_files() -> None:
    assert from_canonical("layers.3.feed_forward.w1.weight", "gguf") == "blk.3.ffn_gate.weight"
    assert to_canonical("blk.3.ffn_down.weight", "gguf") == "layers.3.feed_forward.w2.weight"
    theirs = "model.layers.11.post_attention_layernorm.weight"
    assert to_canonical(theirs, "huggingface") == "layers.11.ffn_norm.weight"
    assert to_canonical("lm_head.weight", "huggingface") == "output.weight"


def test_row_orders_are_inverse() -> None:
    for heads, size in ((1, 2), (9, 64), (3, 6)):
        there, back = half_from_interleaved(heads, size), interleaved_from_half(heads, size)
        assert there.dtype == back.dtype == np.int32
        assert (there[back] == np.arange(heads * size)).all()
        assert (back[there] == np.arange(heads * size)).all()
    assert half_from_interleaved(2, 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_attention_scores_do_not_depend_on_the_layout() -> None:
    """The meaning of the permutation: interleaved rotation of the file's rows gives the same
    products of queries and keys as half rotation of the reordered rows."""
    rng = np.random.default_rng(0)
    heads, size, dim = 3, 8, 16
    angle = rng.uniform(0, 6, size // 2)
    query, key = rng.standard_normal((2, heads * size, dim))
    x, y = rng.standard_normal((2, dim))

    def interleaved(rows: np.ndarray, position: float) -> np.ndarray:
        pairs = rows.reshape(heads, size // 2, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle * position)
        return np.stack([turned.real, turned.imag], axis=-1).reshape(heads, size)

    def half(rows: np.ndarray, position: float) -> np.ndarray:
        low, high = np.split(rows.reshape(heads, size), 2, axis=1)
        turned = (low + 1j * high) * np.exp(1j * angle * position)
        return np.concatenate([turned.real, turned.imag], axis=1)

    order = half_from_interleaved(heads, size)
    there = (interleaved(query @ x, 5) * interleaved(key @ y, 2)).sum(axis=1)
    here = (half(query[order] @ x, 5) * half(key[order] @ y, 2)).sum(axis=1)
    np.testing.assert_allclose(here, there, rtol=1e-12)


def test_only_queries_and_keys_have_rotary_rows() -> None:
    heads = {name: rotary_heads(name, CONFIG) for name, _ in expected_shapes(CONFIG)}
    assert heads["layers.0.attention.wq.weight"] == 4
    assert heads["layers.0.attention.wk.weight"] == 2
    assert sum(count is not None for count in heads.values()) == 24
