"""Tiny models in every format, made without Alpage's writers."""

from pathlib import Path
from typing import Any

import torch
from tests.parity.models import CONFIG as WIDE
from tests.parity.models import gguf_file, random_weights
from tests.weights.meta_files import save_meta
from tests.weights.test_meta import canonical
from transformers import LlamaConfig, LlamaForCausalLM

from alpage.weights.tensor import TensorType

QUANTISED = [TensorType.Q4_K, TensorType.Q8_0, TensorType.Q5_1, TensorType.Q6_K, TensorType.F16]
LICENCE = "---\nlicense: apache-2.0\nbase_model: someone/base\n---\n"


def judge(*, tied: bool = False, factor: float | None = 8.0) -> Any:
    """A random model of transformers, of the shape of `meta_files.PARAMS`."""
    torch.manual_seed(11)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 500000.0}
    if factor is not None:
        rope |= {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }  # fmt: skip
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96, hidden_size=64, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=4, intermediate_size=224, initializer_range=0.2,
            max_position_embeddings=131072 if factor else 8192, rms_norm_eps=1e-5,
            tie_word_embeddings=tied, rope_parameters=rope, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def hf_model(folder: Path, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Path:
    """Saved by transformers."""
    model = judge(**options).to(dtype)
    for name, tensor in model.named_parameters():
        if name.endswith("norm.weight"):
            tensor.data += torch.randn(tensor.shape).to(dtype) / 8
    model.save_pretrained(folder)
    (folder / "README.md").write_text(LICENCE)
    return folder


def meta_model(folder: Path, shards: int = 2, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Saved by torch, over several shards."""
    save_meta(folder, canonical(judge(), dtype), shards)
    (folder / "README.md").write_text(LICENCE)
    return folder


def gguf_model(path: Path, kinds: list[TensorType] | None = None) -> Path:
    """A GGUF file of several types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return gguf_file(path, WIDE, random_weights(WIDE), kinds or QUANTISED)
