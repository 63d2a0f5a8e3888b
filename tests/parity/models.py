"""Model files made by the tests of parity, and feeding a runner one text."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.parity.quantise import quantise
from tests.weights.gguf_files import F32, STRING, U32, GgufFile, Stored

from alpage.core.config import LlamaConfig
from alpage.engine.protocol import Runner, StepBatch
from alpage.weights.names import expected_shapes, from_canonical
from alpage.weights.source import ModelSource
from alpage.weights.tensor import Tensor, TensorType

CONFIG = LlamaConfig(
    vocab_size=300, dim=256, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512,
    context_length=512, norm_eps=2**-17, rope_theta=10_000.0, tied=True,
)  # fmt: skip
"""Wide enough for the types that store 256 weights in a block."""


def random_weights(config: LlamaConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Canonical name -> weights: matrices keep the size of what they multiply, norms are near 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in expected_shapes(config):
        values = rng.standard_normal(shape, dtype=np.float32)
        weights[name] = (
            values / np.float32(shape[1]) ** 0.5 if len(shape) == 2 else 1 + values / 10
        ).astype(np.float32)
    return weights


def gguf_file(
    path: Path,
    config: LlamaConfig,
    weights: dict[str, NDArray[np.float32]],
    kinds: Sequence[TensorType],
) -> Path:
    """Write `weights` as a GGUF file; matrices take the `kinds` in turn. Query and key rows are
    stored as the file's rows are, whatever the reader makes of their order."""
    file = GgufFile().set("general.architecture", STRING, "llama")
    for key, value in {
        "block_count": config.n_layers, "context_length": config.context_length,
        "embedding_length": config.dim, "feed_forward_length": config.ffn_dim,
        "attention.head_count": config.n_heads, "attention.head_count_kv": config.n_kv_heads,
        "rope.dimension_count": config.head_dim, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "vocab_size": config.vocab_size,
    }.items():  # fmt: skip
        file.set(f"llama.{key}", U32, value)
    file.set("llama.attention.layer_norm_rms_epsilon", F32, config.norm_eps)
    file.set("llama.rope.freq_base", F32, config.rope_theta)
    turn = 0
    for name, values in weights.items():
        kind = TensorType.F32
        if values.ndim == 2:
            kind, turn = kinds[turn % len(kinds)], turn + 1
        data = quantise(kind, values).tobytes()
        file.tensors.append(
            Stored(from_canonical(name, "gguf"), values.shape[::-1], int(kind), data)
        )
    return file.write(path)


def requantised(source: ModelSource, kind: TensorType, only: str = "") -> ModelSource:
    """`source` with its matrices (those with `only` in their name) stored as `kind`."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in source.tensors.items():
        if len(tensor.shape) == 2 and only in name:
            weights = tensor.dequantize()
            stored = weights
            if tensor.row_order is not None:
                stored = np.empty_like(weights)
                stored[tensor.row_order] = weights
            tensor = Tensor(name, tensor.shape, kind, quantise(kind, stored), tensor.row_order)
        tensors[name] = tensor
    return replace(source, tensors=tensors)


def pieces(tokens: Sequence[int], size: int) -> Iterator[StepBatch]:
    """The batches that feed one text, `size` tokens a step, all of them outputs."""
    table = np.arange(-(-len(tokens) // 16), dtype=np.int32)[::-1].copy()[None]
    for start in range(0, len(tokens), size):
        part = np.array(tokens[start : start + size], np.int32)
        rows = np.arange(len(part), dtype=np.int32)
        yield StepBatch(part, rows + np.int32(start), rows * 0, table, rows)


def logits_of(runner: Runner, tokens: Sequence[int], size: int = 512) -> NDArray[np.float32]:
    """Logits after each token of one text: [tokens, vocab_size]."""
    return np.concatenate([runner.forward(batch).copy() for batch in pieces(tokens, size)])


def deviation(found: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Root mean square of the difference, as a share of that of the exact logits."""
    difference = found.astype(np.float64) - exact
    return float(np.sqrt((difference**2).mean() / (exact.astype(np.float64) ** 2).mean()))
