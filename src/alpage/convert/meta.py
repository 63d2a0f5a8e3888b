"""A model of any format into a folder in Meta's layout."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.convert.hf import FloatType, shortest, write_json
from alpage.convert.place import synced
from alpage.convert.rope import scaling_of
from alpage.convert.rows import chunks
from alpage.convert.sizes import shifted
from alpage.core.config import LlamaConfig
from alpage.core.errors import UnsupportedError, UsageError
from alpage.weights.contents import PARAMS, ModelSource
from alpage.weights.gguf_write import PlannedTensor, Progress
from alpage.weights.meta import (
    FACTOR,
    FACTOR_TIED,
    LLAMA3_CONTEXT,
    SCALED_CONTEXT,
)
from alpage.weights.names import interleaved_from_half, rotary_heads
from alpage.weights.tensor import Tensor, TensorType
from alpage.weights.torch_write import write_torch

_BY_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")
_OUTPUT, _EMBEDDING = "output.weight", "tok_embeddings.weight"
_FFN = tuple((multiple, factor) for factor in (None, 1.3, 1.5, 1.0, 1.2, 1.1, 1.4)
             for multiple in (256, 1024, 4096))  # fmt: skip


def write_weights(
    source: ModelSource,
    folder: Path,
    *,
    choose: FloatType,
    shards: int = 1,
    progress: Progress | None = None,
) -> None:
    """Write params.json and consolidated.00.pth, or one file for each of `shards` processors."""
    write_json(folder / PARAMS, params(source.config))
    _check_shards(source.config, shards)
    kinds = {name: choose(name, tensor) for name, tensor in source.tensors.items()}
    plans = [
        [
            PlannedTensor(
                name,
                _part_shape(name, tensor, shards),
                kinds[name],
                functools.partial(_chunks, source, name, tensor, kinds[name], shard, shards),
            )
            for name, tensor in source.tensors.items()
        ]
        for shard in range(shards)
    ]
    total = sum(tensor.nbytes for plan in plans for tensor in plan)
    shared = {_OUTPUT: _EMBEDDING} if source.config.tied else {}
    done = 0
    for shard, plan in enumerate(plans):
        with synced(folder / f"consolidated.{shard:02d}.pth") as file:
            write_torch(
                file,
                plan,
                name=f"consolidated.{shard:02d}",
                shared=shared,
                progress=shifted(progress, done, total),
            )
        done += sum(tensor.nbytes for tensor in plan)


def params(config: LlamaConfig) -> dict[str, Any]:
    """The contents of params.json.

    `UnsupportedError` for a shape that Meta's layout cannot say.
    """
    if config.head_dim * config.n_heads != config.dim:
        raise UnsupportedError(
            f"Meta's layout has heads of dim / n_heads = {config.dim / config.n_heads:g} "
            f"dimensions; this model's have {config.head_dim}"
        )
    scaling = scaling_of(config)
    multiple, factor = _ffn(config)
    result: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
        "ffn_dim_multiplier": factor,
        "multiple_of": multiple,
        "norm_eps": shortest(config.norm_eps),
        "rope_theta": shortest(config.rope_theta),
        "use_scaled_rope": scaling is not None,
    }
    if factor is None:
        del result["ffn_dim_multiplier"]
    context = LLAMA3_CONTEXT
    if scaling is not None:
        if (scaling.kind, scaling.low_freq_factor, scaling.original_context) != (
            "llama3", 1.0, LLAMA3_CONTEXT,
        ):  # fmt: skip
            raise UnsupportedError(
                "Meta's layout knows the rotary scaling of Llama 3.1 over a context of "
                f"{LLAMA3_CONTEXT} tokens; this model has {scaling}"
            )
        if scaling.factor != (FACTOR_TIED if config.tied else FACTOR):
            result["rope_scaling_factor"] = scaling.factor
        if scaling.high_freq_factor != 4:
            result["rope_high_freq_factor"] = scaling.high_freq_factor
        context = SCALED_CONTEXT
    if config.context_length != context:
        result["context_length"] = config.context_length
    return result


def _ffn(config: LlamaConfig) -> tuple[int, float | None]:
    """`multiple_of` and `ffn_dim_multiplier` from which Meta's code computes the hidden size."""
    base = int(2 * 4 * config.dim / 3)
    for multiple, factor in _FFN:
        if _rounded(base, multiple, factor) == config.ffn_dim:
            return multiple, factor
    multiple = config.ffn_dim & -config.ffn_dim  # the largest power of two that divides it
    return multiple, (config.ffn_dim + 0.5) / base


def _rounded(base: int, multiple: int, factor: float | None) -> int:
    hidden = base if factor is None else int(factor * base)
    return multiple * ((hidden + multiple - 1) // multiple)


def _check_shards(config: LlamaConfig, shards: int) -> None:
    sizes = (config.n_heads, config.n_kv_heads, config.ffn_dim, config.vocab_size, config.dim)
    if shards < 1 or any(size % shards for size in sizes):
        raise UsageError(
            f"{config.n_heads} heads, {config.n_kv_heads} key/value heads, {config.ffn_dim} hidden "
            f"dimensions and {config.vocab_size} tokens cannot be shared by {shards} processors; "
            "choose a number that divides them all"
        )


def _part_shape(name: str, tensor: Tensor, shards: int) -> tuple[int, ...]:
    if len(tensor.shape) == 1:
        return tensor.shape
    rows, columns = tensor.shape
    return (rows, columns // shards) if name.endswith(_BY_COLUMNS) else (rows // shards, columns)


def _chunks(
    source: ModelSource, name: str, tensor: Tensor, kind: TensorType, shard: int, shards: int
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of one shard's part, query and key rows interleaved."""
    heads = rotary_heads(name, source.config)
    order = interleaved_from_half(heads, source.config.head_dim) if heads else None
    if len(tensor.shape) == 1 or shards == 1:
        yield from chunks(tensor, kind, order=order)
    elif name.endswith(_BY_COLUMNS):
        width = tensor.columns // shards * kind.block_bytes
        for chunk in chunks(tensor, kind):
            table = chunk.reshape(-1, tensor.columns * kind.block_bytes)
            part = table[:, shard * width : (shard + 1) * width]
            yield np.ascontiguousarray(part).reshape(-1)
    else:
        count = tensor.rows // shards
        if order is None:
            order = np.arange(tensor.rows, dtype=np.int32)
        yield from chunks(tensor, kind, order=order[shard * count : (shard + 1) * count])
    tensor.release()
