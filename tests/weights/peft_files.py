"""PEFT adapters made by the tests, without PEFT."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from alpage.core.config import LlamaConfig
from alpage.weights.lora import LoraAdapter, LoraMatrix
from alpage.weights.names import expected_shapes, from_canonical

PREFIX = "base_model.model."
Weights = dict[str, NDArray[Any]]


def layer_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """The matrices that an adapter can change: rows and columns."""
    shapes = expected_shapes(config)
    return {n: s for n, s in shapes if len(s) == 2 and n.startswith("layers.")}


def random_adapter(
    config: LlamaConfig, seed: int, *, rank: int = 4, strength: float = 0.3, only: str = ""
) -> LoraAdapter:
    """Changes every matrix with `only` in its name; `strength` is about that of the changes beside
    weights that keep the size of what they multiply."""
    rng = np.random.default_rng(seed)
    matrices = {}
    for name, (rows, columns) in layer_shapes(config).items():
        a = rng.standard_normal((rank, columns), dtype=np.float32) / np.float32(columns) ** 0.5
        b = rng.standard_normal((rows, rank), dtype=np.float32) / np.float32(rank) ** 0.5
        if only in name:
            matrices[name] = LoraMatrix(a.astype(np.float32), b.astype(np.float32), strength)
    return LoraAdapter(f"random-{seed}", matrices)


def lora_weights(config: LlamaConfig, rank: int = 4, only: str = "q_proj") -> Weights:
    """Both halves for the modules with `only` in their name, as in PEFT's file."""
    rng = np.random.default_rng(7)
    weights: Weights = {}
    for name, (rows, columns) in layer_shapes(config).items():
        module = PREFIX + from_canonical(name, "huggingface").removesuffix(".weight")
        if only in module:
            weights[f"{module}.lora_A.weight"] = rng.standard_normal((rank, columns), np.float32)
            weights[f"{module}.lora_B.weight"] = rng.standard_normal((rows, rank), np.float32)
    return weights


def write_adapter(folder: Path, weights: Weights | None, changes: Mapping[str, Any]) -> Path:
    """A folder in PEFT's layout; `changes` to a config of rank 4 and alpha 8."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False,
              "target_modules": ["q_proj"], "modules_to_save": None, "rank_pattern": {},
              "inference_mode": True, "lora_dropout": 0.1}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    if weights is not None:
        save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder
