"""What a GGUF file says about a model besides its weights: shape, origin, type."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from alpage.core.config import LlamaConfig
from alpage.weights.contents import Lineage, ModelSource
from alpage.weights.gguf_model import CONTRIBUTIONS
from alpage.weights.gguf_write import ARRAY, F32, STRING, U32, Kinds
from alpage.weights.tensor import TensorType

Entries = dict[str, tuple[Kinds, Any]]

_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10,
    "Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32,
}  # fmt: skip
"""`general.file_type` of a file whose matrices are mostly of a type (llama.cpp, `llama_ftype`)."""
_LAYOUT = re.compile(r"split\.|general\.(alignment|file_type|quantization_version)$")
_BASES = re.compile(r"general\.base_model\.")
_DATASETS = re.compile(r"general\.(dataset\.|datasets$)")
_ROPE_SCALING = re.compile(r"llama\.rope\.(scaling\.|scale_linear$)")
_QUANTISER = "general.quantized_by"
_QUANTIZATION_VERSION = 2


def model_metadata(
    source: ModelSource, *, name: str, licence: str | None, lineage: Lineage
) -> Entries:
    """The entries of a model, without tokenizer and template where `source` is no GGUF file.

    A GGUF file's own entries are kept with their kinds, apart from those that describe its layout.
    """
    if source.gguf_metadata is None or source.gguf_kinds is None:
        entries: Entries = {
            "general.architecture": ((STRING,), "llama"),
            "general.type": ((STRING,), "model"),
            **shape_metadata(source.config),
        }
        if source.licence:
            entries["general.license"] = ((STRING,), source.licence)
        known = Lineage()
    else:
        kinds = source.gguf_kinds
        entries = {key: (kinds[key], value) for key, value in source.gguf_metadata.items()}
        entries = _without(entries, _LAYOUT)
        known = source.lineage
    if source.config.rope_factors is not None:
        # The reader has multiplied a linear factor, if there was one, into the factors' tensor.
        entries = _without(entries, _ROPE_SCALING)
    entries["general.name"] = ((STRING,), name)
    if licence and licence != source.licence:
        entries["general.license"] = ((STRING,), licence)
    if lineage.authors and lineage.authors != known.authors:
        entries["general.author"] = ((STRING,), lineage.authors)
    if lineage.base_models != known.base_models:
        entries = _without(entries, _BASES) | _numbered("base_model", lineage.base_models)
    if lineage.datasets != known.datasets:
        entries = _without(entries, _DATASETS) | _numbered("dataset", lineage.datasets)
    if lineage.contributions != known.contributions:
        # What a key of GGUF's own says (`general.quantized_by`) is not said twice.
        said = {f"quantised by {entries[_QUANTISER][1]}"} if _QUANTISER in entries else set()
        steps = [step for step in lineage.contributions if step not in said]
        entries[CONTRIBUTIONS] = ((ARRAY, STRING), steps)
    return entries


def _without(entries: Entries, pattern: re.Pattern[str]) -> Entries:
    return {key: entry for key, entry in entries.items() if not pattern.match(key)}


def shape_metadata(config: LlamaConfig) -> Entries:
    """The entries `llama.*` that say a model's sizes."""
    numbers = {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.ffn_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
    }
    entries: Entries = {f"llama.{key}": ((U32,), value) for key, value in numbers.items()}
    entries["llama.rope.freq_base"] = ((F32,), config.rope_theta)
    entries["llama.attention.layer_norm_rms_epsilon"] = ((F32,), config.norm_eps)
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        entries["llama.rope.scaling.type"] = ((STRING,), "linear")
        entries["llama.rope.scaling.factor"] = ((F32,), config.rope_scaling.factor)
    return entries


def _numbered(what: str, names: Sequence[str]) -> Entries:
    """`general.base_model.0.name`, `.organization` and so on, as GGUF lists origins."""
    if not names:
        return {}
    entries: Entries = {f"general.{what}.count": ((U32,), len(names))}
    for index, full in enumerate(names):
        owner, _, name = full.rpartition("/")
        entries[f"general.{what}.{index}.name"] = ((STRING,), name)
        if owner:
            entries[f"general.{what}.{index}.organization"] = ((STRING,), owner)
    return entries


def type_metadata(types: Mapping[str, tuple[int, TensorType]], file_type: int | None) -> Entries:
    """How the weights are stored; `types` has (weights, type) of every matrix."""
    counts: Counter[str] = Counter()
    for size, kind in types.values():
        counts[kind.name] += size
    ((main, _),) = counts.most_common(1)
    number = _FILE_TYPES[main] if file_type is None else file_type
    entries: Entries = {"general.file_type": ((U32,), number)}
    if any(kind.block_size > 1 for _, kind in types.values()):
        entries["general.quantization_version"] = ((U32,), _QUANTIZATION_VERSION)
    return entries
