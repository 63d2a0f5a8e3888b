"""A Llama model out of a folder in Hugging Face's layout: config.json, safetensors, tokenizer."""

from pathlib import Path

import numpy as np

from alpage.core.config import LlamaConfig, RopeScaling
from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.contents import ModelSource, assemble
from alpage.weights.fields import Fields, clean, is_plain, read_json
from alpage.weights.folder_text import folder_source
from alpage.weights.mapped import MappedFile
from alpage.weights.safetensors import read_safetensors
from alpage.weights.tensor import Tensor

_MAX_CONFIG = 1 << 22
_MAX_INDEX = 1 << 26
_MAX_SHARDS = 4096
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_IGNORED = ".rotary_emb.inv_freq"  # derived values that old checkpoints stored


def open_folder(path: Path) -> ModelSource:
    """Open a folder with config.json and safetensors; the errors of `open_model`."""
    fields = read_json(path / "config.json", _MAX_CONFIG)
    _check_kind(fields)
    files: list[MappedFile] = []
    try:
        stored = _read_weights(path, files)
        config = _config(fields, stored)
        tensors = assemble(config, stored, "huggingface", path)
        return folder_source(path, "huggingface", config, tensors, fields, files)
    except BaseException:
        for file in files:
            file.close()
        raise


def check_config(fields: Fields) -> LlamaConfig:
    """The shape that config.json announces, before any weights are here; refused if not Llama's."""
    _check_kind(fields)
    return _config(fields, {})


def shards_of(index: Path) -> list[str]:
    """The names of the safetensors files that an index asks for."""
    return _read_index(index)[0]


def _check_kind(fields: Fields) -> None:
    kind = fields.word("model_type")
    if kind is None:
        raise FormatError(f"{fields.path} lacks model_type")
    if kind != "llama":
        raise UnsupportedError(f"{fields.path}: this is a {kind} model; Alpage runs llama")
    architectures = fields.texts("architectures")
    if architectures and "LlamaForCausalLM" not in architectures:
        raise UnsupportedError(
            f"{fields.path}: this is a {clean(architectures[0])}; Alpage runs LlamaForCausalLM"
        )
    for key in ("attention_bias", "mlp_bias"):
        if fields.flag(key, False):
            raise UnsupportedError(
                f"{fields.path}: {key} is true; Alpage runs llama, without bias weights"
            )
    activation = fields.word("hidden_act") or "silu"
    if activation not in ("silu", "swish"):
        raise UnsupportedError(f"{fields.path}: hidden_act is {activation}; Alpage runs silu")
    quantised = fields.section("quantization_config")
    if quantised is not None:
        method = quantised.word("quant_method") or "an unnamed method"
        raise UnsupportedError(
            f"{fields.path}: the weights are quantised by {method}; Alpage reads F32, F16 and "
            "BF16 safetensors, and quantised GGUF files"
        )


def _config(fields: Fields, stored: dict[str, Tensor]) -> LlamaConfig:
    dim, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if dim < 1 or heads < 1:
        raise FormatError(f"{fields.path}: {dim} dimensions in {heads} heads cannot be")
    if fields.values.get("head_dim") is None and dim % heads:
        raise FormatError(f"{fields.path}: {dim} dimensions do not divide into {heads} heads")
    context = fields.integer("max_position_embeddings", 2048)
    theta, scaling = _rope(fields, context)
    return LlamaConfig(
        vocab_size=fields.integer("vocab_size"),
        dim=dim,
        n_layers=fields.integer("num_hidden_layers"),
        n_heads=heads,
        n_kv_heads=fields.integer("num_key_value_heads", heads),
        head_dim=fields.integer("head_dim", dim // heads),
        ffn_dim=fields.integer("intermediate_size"),
        context_length=context,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=_tie(fields, stored),
    )


def _tie(fields: Fields, stored: dict[str, Tensor]) -> bool:
    """Whether input and output weights are one; a stored copy of them is dropped.

    As in transformers, a config that says "tied" over two different matrices is overruled.
    """
    if not fields.flag("tie_word_embeddings", False):
        return False
    head, embedding = stored.get(_HEAD), stored.get(_EMBEDDING)
    if head is None:
        return True
    if embedding is None or not _equal(head, embedding):
        return False
    del stored[_HEAD]
    return True


def _equal(left: Tensor, right: Tensor) -> bool:
    if (left.shape, left.type) != (right.shape, right.type):
        return False
    step = 1 << 24
    return all(
        np.array_equal(left.data[at : at + step], right.data[at : at + step])
        for at in range(0, left.data.size, step)
    )


def _rope(fields: Fields, context: int) -> tuple[float, RopeScaling | None]:
    """Base and scaling; transformers 5 keeps both in `rope_parameters`, older ones apart."""
    section = fields.section("rope_parameters") or fields.section("rope_scaling")
    theta = fields.number("rope_theta", 10_000.0)
    partial = fields.number("partial_rotary_factor", 1.0)
    if section is None:
        _check_partial(fields, partial)
        return theta, None
    _check_partial(fields, section.number("partial_rotary_factor", partial))
    theta = section.number("rope_theta", theta)
    kind = section.word("rope_type") or section.word("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        factor = section.number("factor") if kind == "linear" else 1.0
        return theta, RopeScaling(kind, factor)
    original = fields.integer("original_max_position_embeddings", context)
    return theta, RopeScaling(
        kind,
        section.number("factor"),
        section.number("low_freq_factor"),
        section.number("high_freq_factor"),
        section.integer("original_max_position_embeddings", original),
    )


def _check_partial(fields: Fields, partial: float) -> None:
    if partial != 1.0:
        raise UnsupportedError(
            f"{fields.path}: partial_rotary_factor is {partial}; Alpage runs models that rotate "
            "whole heads"
        )


def _read_weights(path: Path, files: list[MappedFile]) -> dict[str, Tensor]:
    """All tensors of one or several safetensors files; `files` receives what was opened."""
    promised: dict[str, str] = {}
    if (path / _SINGLE).exists():
        shards = [_SINGLE]
    elif (path / _INDEX).exists():
        shards, promised = _read_index(path / _INDEX)
    else:
        raise FormatError(f"{path} has a config.json but neither {_SINGLE} nor {_INDEX}")
    stored: dict[str, Tensor] = {}
    for shard in shards:
        if not (path / shard).exists():
            raise FormatError(f"{path} lacks {shard}; the download is incomplete; pull it again")
        file = MappedFile(path / shard)
        files.append(file)
        for name, tensor in read_safetensors(file).items():
            if name in stored:
                raise FormatError(f"{path} is damaged: tensor {name} is in two files")
            if promised and promised.get(name) != shard:
                raise FormatError(f"{path / shard} holds tensor {name}; the index says otherwise")
            stored[name] = tensor
    for name, shard in promised.items():
        if name not in stored:
            raise FormatError(f"{path / shard} lacks tensor {name}, which the index promises")
    return {name: tensor for name, tensor in stored.items() if not name.endswith(_IGNORED)}


def _read_index(path: Path) -> tuple[list[str], dict[str, str]]:
    """Shard names, and the shard of each tensor."""
    section = read_json(path, _MAX_INDEX).section("weight_map")
    if section is None or not section.values:
        raise FormatError(f"{path} lacks weight_map")
    promised: dict[str, str] = {}
    for name, shard in section.values.items():
        # A shard is a plain name: an index must not lead out of its folder.
        if type(shard) is not str or not shard.endswith(".safetensors") or _is_path(shard):
            raise FormatError(f"{path}: {shard!r:.80} is not a plain name of a safetensors file")
        if not is_plain(name, 256):
            raise FormatError(f"{path}: a tensor is named {name[:40]!r}")
        promised[name] = shard
    shards = sorted(set(promised.values()))
    if len(shards) > _MAX_SHARDS:
        raise FormatError(f"{path} names {len(shards):,} files; at most {_MAX_SHARDS:,} can be")
    return shards, promised


def _is_path(name: str) -> bool:
    return not is_plain(name, 200) or name.startswith(".") or any(m in name for m in "/\\:")
