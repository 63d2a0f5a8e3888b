"""A Llama model out of a folder in Meta's layout: params.json and consolidated.NN.pth.

Large models lie in several files, one for each processor of the machine that Meta ran them on: a
part of the rows or of the columns of each matrix. Which, the shapes say. Layout: Meta's `llama`
and `llama_models` packages.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from alpage.core.config import LlamaConfig, RopeScaling
from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.contents import PARAMS, ModelSource, assemble
from alpage.weights.fields import Fields, read_json
from alpage.weights.folder_text import folder_source
from alpage.weights.joined import JoinedTensor
from alpage.weights.mapped import MappedFile
from alpage.weights.names import expected_shapes
from alpage.weights.torch_file import TorchTensor, read_torch

LLAMA3_CONTEXT, SCALED_CONTEXT = 8192, 131_072
"""Tokens of context of Llama 3, and of 3.1 and 3.2: params.json does not say them."""
FACTOR, FACTOR_TIED = 8.0, 32.0
"""Rotary scaling of Llama 3.1, and of 3.2's text models (1B and 3B), which alone tie their input
and output weights; params.json says only that there is one."""

_MAX_PARAMS = 1 << 20
_MAX_SHARDS = 128
_OLD_CONTEXT, _OLD_THETA = 4096, 10_000.0
"""Of Llama 2, whose params.json has no rope_theta."""
_OTHER = {
    "vision_model": "sees pictures",
    "quantization_args": "is quantised for another runtime",
    "lora_args": "comes with a LoRA adapter",
    "moe_args": "is a mixture of experts",
}
_IGNORED = "rope.freqs"  # derived values that old checkpoints stored
_EMBEDDING, _OUTPUT = "tok_embeddings.weight", "output.weight"


def open_meta(path: Path) -> ModelSource:
    """Open a folder with params.json and consolidated.NN.pth; the errors of `open_model`."""
    fields = read_json(path / PARAMS, _MAX_PARAMS)
    for key, what in _OTHER.items():
        if fields.values.get(key) is not None:
            raise UnsupportedError(
                f"{fields.path} has {key}: this model {what}; Alpage runs text models whose "
                "weights are F32, F16 or BF16"
            )
    files: list[MappedFile] = []
    try:
        shards = _read_shards(path, files)
        config, stored = _model(fields, shards)
        tensors = assemble(config, stored, "meta", path)
        return folder_source(path, "meta", config, tensors, Fields(path / PARAMS, {}), files)
    except BaseException:
        for file in files:
            file.close()
        raise


def _read_shards(path: Path, files: list[MappedFile]) -> list[dict[str, TorchTensor]]:
    """The tensors of each shard, in order; `files` receives what was opened."""
    found = sorted(file.name for file in path.glob("consolidated.*.pth"))
    if not found:
        raise FormatError(f"{path} has a params.json but no consolidated.00.pth")
    if len(found) > _MAX_SHARDS:
        raise FormatError(f"{path} holds {len(found):,} shards; at most {_MAX_SHARDS} can be")
    for index, name in enumerate(found):
        wanted = f"consolidated.{index:02d}.pth"
        if name != wanted:
            raise FormatError(f"{path} lacks {wanted}; the download is incomplete; pull it again")
    shards = []
    for name in found:
        file = MappedFile(path / name)
        files.append(file)
        shards.append(read_torch(file))
    names = {name for name in shards[0] if name != _IGNORED}
    for shard, name in zip(shards, found, strict=True):
        shard.pop(_IGNORED, None)
        different = sorted(names ^ shard.keys())
        if different:
            raise FormatError(
                f"{path}: {found[0]} and {name} do not hold parts of the same tensors "
                f"({different[0]}, ...)"
            )
    return shards


def _model(
    fields: Fields, shards: Sequence[dict[str, TorchTensor]]
) -> tuple[LlamaConfig, dict[str, JoinedTensor]]:
    """The configuration, and every tensor joined to the shape that it asks for."""
    dim, heads = fields.integer("dim"), fields.integer("n_heads")
    if dim < 1 or heads < 1 or dim % heads:
        raise FormatError(f"{fields.path}: {dim} dimensions do not divide into {heads} heads")
    embedding = _matrix(fields.path, shards[0], _EMBEDDING)
    gate = _matrix(fields.path, shards[0], "layers.0.feed_forward.w1.weight")
    by_rows = embedding[1] == dim
    vocab_size = embedding[0] * (len(shards) if by_rows else 1)
    declared = fields.integer("vocab_size", -1)
    if declared not in (-1, vocab_size):
        raise FormatError(
            f"{fields.path}: vocab_size is {declared}, but {_EMBEDDING} has {vocab_size} rows"
        )
    tied = _OUTPUT not in shards[0]
    config = LlamaConfig(
        vocab_size=vocab_size,
        dim=dim,
        n_layers=fields.integer("n_layers"),
        n_heads=heads,
        n_kv_heads=fields.integer("n_kv_heads", heads),
        head_dim=dim // heads,
        ffn_dim=gate[0] * len(shards),
        context_length=_context(fields),
        norm_eps=fields.number("norm_eps", 1e-5),
        rope_theta=fields.number("rope_theta", _OLD_THETA),
        tied=tied,
    )
    stored = _join(fields.path.parent, config, shards)
    if not tied and _is_copy(stored[_OUTPUT], stored[_EMBEDDING]):
        del stored[_OUTPUT]
        tied = True
    return replace(config, tied=tied, rope_scaling=_scaling(fields, tied)), stored


def _matrix(path: Path, shard: dict[str, TorchTensor], name: str) -> tuple[int, int]:
    """The shape of a shard's part of matrix `name`."""
    if name not in shard or len(shard[name].shape) != 2:
        raise FormatError(f"{path.parent} lacks the matrix {name}")
    rows, columns = shard[name].shape
    return rows, columns


def _context(fields: Fields) -> int:
    """Alpage's own key, or else what the family was trained with."""
    default = LLAMA3_CONTEXT if fields.values.get("rope_theta") is not None else _OLD_CONTEXT
    if fields.flag("use_scaled_rope", False):
        default = SCALED_CONTEXT
    return fields.integer("context_length", default)


def _scaling(fields: Fields, tied: bool) -> RopeScaling | None:
    if not fields.flag("use_scaled_rope", False):
        return None
    factor = fields.number("rope_scaling_factor", FACTOR_TIED if tied else FACTOR)
    high = fields.number("rope_high_freq_factor", 4.0)
    return RopeScaling("llama3", factor, 1.0, high, LLAMA3_CONTEXT)


def _join(
    where: Path, config: LlamaConfig, shards: Sequence[dict[str, TorchTensor]]
) -> dict[str, JoinedTensor]:
    """Every tensor over all shards. What Llama does not have is left for `assemble` to refuse."""
    stored: dict[str, JoinedTensor] = {}
    expected = {}
    for name, shape in expected_shapes(config):
        if name not in shards[0]:
            break  # `assemble` says so; a damaged file may claim a billion layers
        expected[name] = shape
    for name, first in shards[0].items():
        parts = [shard[name] for shard in shards]
        if len({(part.shape, part.type) for part in parts}) > 1:
            raise FormatError(f"{where}: the parts of tensor {name} have different shapes or types")
        axis, shape = _axis(first.shape, expected.get(name, first.shape), len(shards))
        pieces = [part.rows for part in parts]
        if axis is None:
            same = all(np.array_equal(piece, pieces[0]) for piece in pieces[1:])
            if name in expected and not same:
                raise FormatError(f"{where}: the copies of tensor {name} in the shards differ")
            axis, pieces = "rows", pieces[:1]
        stored[name] = JoinedTensor(name, shape, first.type, pieces, axis)
    return stored


def _axis(
    part: tuple[int, ...], whole: tuple[int, ...], count: int
) -> tuple[Literal["rows", "columns"] | None, tuple[int, ...]]:
    """How `count` parts of shape `part` make up `whole`; None: each is a copy of it.

    Beside it the shape that they give, which is another one than `whole` where they do not.
    """
    if part == whole:
        return None, whole
    if len(part) == 2 and (part[0], part[1] * count) == whole:
        return "columns", whole
    if len(part) == 2 and (part[0] * count, part[1]) == whole:
        return "rows", whole
    return None, part


def _is_copy(output: JoinedTensor, embedding: JoinedTensor) -> bool:
    """Whether the output weights are the input weights again, as checkpoints of tied models are."""
    if output.same_place(embedding):
        return True
    if (output.shape, output.type) != (embedding.shape, embedding.type):
        return False
    step = max(1, (1 << 24) // output.row_bytes)
    return all(
        np.array_equal(output.raw_rows(at, end), embedding.raw_rows(at, end))
        for at in range(0, output.rows, step)
        for end in [min(at + step, output.rows)]
    )
