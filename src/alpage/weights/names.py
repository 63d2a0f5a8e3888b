"""What each weight is called in every format, its shape, and the order of the rotary rows.

Canonical names are those of Meta's checkpoints and of `model/llama.py`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alpage.core.config import LlamaConfig

Dialect = Literal["gguf", "huggingface", "meta"]

_MODEL = {  # canonical, which is Meta's too: (GGUF, Hugging Face)
    "tok_embeddings.weight": ("token_embd.weight", "model.embed_tokens.weight"),
    "norm.weight": ("output_norm.weight", "model.norm.weight"),
    "output.weight": ("output.weight", "lm_head.weight"),
}
_LAYER = {
    "attention_norm.weight": ("attn_norm.weight", "input_layernorm.weight"),
    "attention.wq.weight": ("attn_q.weight", "self_attn.q_proj.weight"),
    "attention.wk.weight": ("attn_k.weight", "self_attn.k_proj.weight"),
    "attention.wv.weight": ("attn_v.weight", "self_attn.v_proj.weight"),
    "attention.wo.weight": ("attn_output.weight", "self_attn.o_proj.weight"),
    "ffn_norm.weight": ("ffn_norm.weight", "post_attention_layernorm.weight"),
    "feed_forward.w1.weight": ("ffn_gate.weight", "mlp.gate_proj.weight"),
    "feed_forward.w2.weight": ("ffn_down.weight", "mlp.down_proj.weight"),
    "feed_forward.w3.weight": ("ffn_up.weight", "mlp.up_proj.weight"),
}
_LAYER_PREFIX = ("blk.", "model.layers.")
_COLUMN = {"gguf": 0, "huggingface": 1}
_NUMBERED = re.compile(r"(0|[1-9][0-9]{0,5})\.(.+)", re.ASCII)


def _reverse(table: Mapping[str, tuple[str, str]], column: int) -> dict[str, str]:
    return {names[column]: canonical for canonical, names in table.items()}


_TO_CANONICAL = tuple((_reverse(_MODEL, c), _reverse(_LAYER, c)) for c in (0, 1))


def to_canonical(name: str, dialect: Dialect) -> str | None:
    """The canonical name of `name` in a file of that dialect; None if Llama has no such weight."""
    if dialect == "meta":
        return name if _is_canonical(name) else None
    column = _COLUMN[dialect]
    model, layer = _TO_CANONICAL[column]
    if name in model:
        return model[name]
    if not name.startswith(_LAYER_PREFIX[column]):
        return None
    match = _NUMBERED.fullmatch(name[len(_LAYER_PREFIX[column]) :])
    if match is None or match[2] not in layer:
        return None
    return f"layers.{match[1]}.{layer[match[2]]}"


def from_canonical(name: str, dialect: Dialect) -> str:
    """The name that canonical `name` has in files of that dialect; KeyError if there is none."""
    if dialect == "meta":
        return name
    column = _COLUMN[dialect]
    if name in _MODEL:
        return _MODEL[name][column]
    match = _NUMBERED.fullmatch(name.removeprefix("layers."))
    if match is None or not name.startswith("layers."):
        raise KeyError(name)
    return f"{_LAYER_PREFIX[column]}{match[1]}.{_LAYER[match[2]][column]}"


def _is_canonical(name: str) -> bool:
    match = _NUMBERED.fullmatch(name.removeprefix("layers."))
    inside = match is not None and name.startswith("layers.") and match[2] in _LAYER
    return inside or name in _MODEL


def expected_shapes(config: LlamaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Canonical name and shape of every weight, one at a time.

    Lazy, because a damaged file may claim a billion layers: the caller stops at the first
    weight that is missing.
    """
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    yield "tok_embeddings.weight", (config.vocab_size, config.dim)
    yield "norm.weight", (config.dim,)
    if not config.tied:
        yield "output.weight", (config.vocab_size, config.dim)
    for index in range(config.n_layers):
        prefix = f"layers.{index}."
        yield prefix + "attention_norm.weight", (config.dim,)
        yield prefix + "attention.wq.weight", (queries, config.dim)
        yield prefix + "attention.wk.weight", (keys, config.dim)
        yield prefix + "attention.wv.weight", (keys, config.dim)
        yield prefix + "attention.wo.weight", (config.dim, queries)
        yield prefix + "ffn_norm.weight", (config.dim,)
        yield prefix + "feed_forward.w1.weight", (config.ffn_dim, config.dim)
        yield prefix + "feed_forward.w2.weight", (config.dim, config.ffn_dim)
        yield prefix + "feed_forward.w3.weight", (config.ffn_dim, config.dim)


def rotary_heads(name: str, config: LlamaConfig) -> int | None:
    """Heads whose rows turn in pairs, for the query and key weights; None for all others."""
    if name.endswith(".attention.wq.weight"):
        return config.n_heads
    if name.endswith(".attention.wk.weight"):
        return config.n_kv_heads
    return None


def half_from_interleaved(n_heads: int, head_dim: int) -> NDArray[np.int32]:
    """Row order int32 [n_heads * head_dim] from interleaved to half layout.

    Rotary embedding turns pairs of rows. Interleaved files (GGUF `llama`, Meta) store pair i of
    a head as rows (2i, 2i + 1); the half layout (Hugging Face, canonical) as rows
    (i, i + head_dim / 2). `interleaved[order]` is the half layout.
    """
    order = np.arange(n_heads * head_dim, dtype=np.int32).reshape(n_heads, head_dim // 2, 2)
    return np.ascontiguousarray(order.transpose(0, 2, 1)).reshape(-1)


def interleaved_from_half(n_heads: int, head_dim: int) -> NDArray[np.int32]:
    """The inverse of `half_from_interleaved`: `half[order]` is the interleaved layout."""
    order = np.arange(n_heads * head_dim, dtype=np.int32).reshape(n_heads, 2, head_dim // 2)
    return np.ascontiguousarray(order.transpose(0, 2, 1)).reshape(-1)
