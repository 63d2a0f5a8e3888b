"""Makes checkpoints in Meta's layout as Meta makes them: split over shards, saved by torch."""

import json
from pathlib import Path
from typing import Any

import torch

from alpage.core.config import LlamaConfig
from alpage.weights.names import interleaved_from_half, rotary_heads

BY_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")
PARAMS: dict[str, Any] = {
    "dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 96, "multiple_of": 32,
    "ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "rope_theta": 500000.0, "use_scaled_rope": True,
}  # fmt: skip
CONFIG = LlamaConfig(
    vocab_size=96, dim=64, n_layers=2, n_heads=8, n_kv_heads=4, head_dim=8, ffn_dim=224,
    context_length=131072, norm_eps=1e-5, rope_theta=500000.0,
)  # fmt: skip
"""The shape that PARAMS describe: 2/3 of 4 * 64, times 1.3, rounded up to a multiple of 32."""


def save_meta(
    folder: Path,
    weights: dict[str, torch.Tensor],
    shards: int = 1,
    *,
    params: dict[str, Any] | None = None,
    embedding_axis: int = 0,
    contiguous: bool = True,
    config: LlamaConfig = CONFIG,
) -> Path:
    """`weights` have canonical names and half-layout rows; each shard gets its part of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(PARAMS if params is None else params))
    for shard in range(shards):
        table = {}
        for name, tensor in weights.items():
            heads = rotary_heads(name, config)
            if heads:
                tensor = tensor[torch.from_numpy(interleaved_from_half(heads, config.head_dim))]
            if tensor.ndim == 2:
                axis = 1 if name.endswith(BY_COLUMNS) else 0
                if name == "tok_embeddings.weight":
                    axis = embedding_axis
                tensor = tensor.chunk(shards, axis)[shard]
            table[name] = tensor.contiguous() if contiguous else tensor
        table["rope.freqs"] = torch.ones(4)
        if "output.weight" not in weights:  # Llama 3.2 saves a tied model's weights once
            table["output.weight"] = table["tok_embeddings.weight"]
        torch.save(table, folder / f"consolidated.{shard:02d}.pth")
    return folder
