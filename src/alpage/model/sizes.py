"""The published sizes of the Llama 3 family as configs (arXiv 2407.21783, Table 3; model cards)."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from alpage.core.config import LlamaConfig, RopeScaling

LLAMA_3_8B = LlamaConfig(
    vocab_size=128_256,
    dim=4096,
    n_layers=32,
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    ffn_dim=14_336,
    context_length=8192,
)
LLAMA_3_70B = replace(LLAMA_3_8B, dim=8192, n_layers=80, n_heads=64, ffn_dim=28_672)

_LONG = RopeScaling("llama3", factor=8.0)
LLAMA_3_1_8B = replace(LLAMA_3_8B, context_length=131_072, rope_scaling=_LONG)
LLAMA_3_1_70B = replace(LLAMA_3_70B, context_length=131_072, rope_scaling=_LONG)
LLAMA_3_1_405B = replace(LLAMA_3_1_8B, dim=16_384, n_layers=126, n_heads=128, ffn_dim=53_248)

LLAMA_3_2_1B = replace(
    LLAMA_3_1_8B,
    dim=2048,
    n_layers=16,
    head_dim=64,
    ffn_dim=8192,
    rope_scaling=RopeScaling("llama3", factor=32.0),
    tied=True,
)
LLAMA_3_2_3B = replace(LLAMA_3_2_1B, dim=3072, n_layers=28, n_heads=24, head_dim=128)

SIZES: Mapping[str, LlamaConfig] = MappingProxyType(
    {
        "llama-3-8b": LLAMA_3_8B,
        "llama-3-70b": LLAMA_3_70B,
        "llama-3.1-8b": LLAMA_3_1_8B,
        "llama-3.1-70b": LLAMA_3_1_70B,
        "llama-3.1-405b": LLAMA_3_1_405B,
        "llama-3.2-1b": LLAMA_3_2_1B,
        "llama-3.2-3b": LLAMA_3_2_3B,
    }
)
"""Every size by its usual name, for planning and for building a model to train."""
