"""A model of any format into a folder in Hugging Face's layout."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.convert.place import synced
from alpage.convert.rope import scaling_of
from alpage.convert.rows import chunks
from alpage.convert.sizes import shifted, split
from alpage.core.config import LlamaConfig
from alpage.weights.contents import ModelSource
from alpage.weights.gguf_write import PlannedTensor, Progress
from alpage.weights.names import from_canonical
from alpage.weights.safetensors_write import write_safetensors
from alpage.weights.tensor import Tensor, TensorType

FloatType = Callable[[str, Tensor], TensorType]
"""Canonical name and tensor -> F32, F16 or BF16."""

_DTYPES = {TensorType.F32: "float32", TensorType.F16: "float16", TensorType.BF16: "bfloat16"}


def write_weights(
    source: ModelSource,
    folder: Path,
    *,
    choose: FloatType,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write model.safetensors, or several files and their index, into `folder`."""
    tensors = [
        PlannedTensor(
            from_canonical(name, "huggingface"),
            tensor.shape,
            kind,
            functools.partial(_chunks, tensor, kind),
        )
        for name, tensor in source.tensors.items()
        for kind in [choose(name, tensor)]
    ]
    parts = split(tensors, shard_bytes)
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    names = _names(len(parts))
    for name, part in zip(names, parts, strict=True):
        with synced(folder / name) as file:
            write_safetensors(file, part, progress=shifted(progress, done, total))
        done += sum(tensor.nbytes for tensor in part)
    if len(parts) > 1:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {
                tensor.name: name
                for name, part in zip(names, parts, strict=True)
                for tensor in part
            },
        }
        write_json(folder / "model.safetensors.index.json", index)


def _chunks(tensor: Tensor, kind: TensorType) -> Iterator[NDArray[np.uint8]]:
    yield from chunks(tensor, kind)
    tensor.release()


def _names(count: int) -> Sequence[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def write_config(
    folder: Path,
    config: LlamaConfig,
    kind: TensorType,
    *,
    bos_id: int | None,
    eos_ids: Sequence[int],
) -> None:
    """Write config.json and generation_config.json, for transformers 4 and 5."""
    ids: dict[str, Any] = {}
    if bos_id is not None:
        ids["bos_token_id"] = bos_id
    if eos_ids:
        ids["eos_token_id"] = eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": config.vocab_size,
            "hidden_size": config.dim,
            "intermediate_size": config.ffn_dim,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads,
            "head_dim": config.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": config.context_length,
            "rms_norm_eps": shortest(config.norm_eps),
            **rope_fields(config),
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "tie_word_embeddings": config.tied,
            "torch_dtype": _DTYPES[kind],
            "use_cache": True,
            **ids,
        },
    )
    write_json(folder / "generation_config.json", {"_from_model_config": False, **ids})


def rope_fields(config: LlamaConfig) -> dict[str, Any]:
    """Rotary base and scaling, as transformers 5 has them and as older ones do."""
    theta = shortest(config.rope_theta)
    scaling = scaling_of(config)
    if scaling is None:
        return {
            "rope_theta": theta,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        }
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        values |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return {
        "rope_theta": theta,
        "rope_scaling": values,
        "rope_parameters": {**values, "rope_theta": theta},
    }


def shortest(value: float) -> float:
    """A number that was stored as float32 in the fewest digits that say it: 1e-05."""
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value


def write_json(path: Path, value: Any) -> None:
    """A JSON file as model folders have them."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
