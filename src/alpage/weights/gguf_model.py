"""A Llama model out of a GGUF file: configuration, weights and token ids from its metadata."""

from pathlib import Path

from alpage.core.config import LlamaConfig, RopeScaling
from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.contents import END_TOKENS, Lineage, ModelSource, assemble, main_type
from alpage.weights.fields import Fields, clean
from alpage.weights.gguf import Header
from alpage.weights.gguf_parts import model_stem, open_container
from alpage.weights.mapped import MappedFile
from alpage.weights.tensor import Tensor

CONTRIBUTIONS = "alpage.contributions"
"""Alpage's own key: what was done to the model since its base, one text a step."""
_MAX_HEAD_DIM = 1 << 16
_MIXES = {
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 21: "Q2_K_S",
}  # fmt: skip
"""general.file_type of files that mix types; all others are named after their main type."""
_CONTROL_TOKEN = 3
_PRE_TOKENIZERS_WITH_BOS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral")


def open_gguf(path: Path) -> ModelSource:
    """Open a GGUF file of the llama architecture, or with any part of one all its parts.

    `FormatError` or `UnsupportedError` if it is none, `NotFoundError` if a part is missing.
    """
    with open_container(path) as file:
        reader = Fields(file.path, file.header.metadata)
        _check_kind(reader)
        stored = file.tensors
        config = _config(reader, stored)
        stored.pop("rope_freqs.weight", None)
        tensors = assemble(config, stored, "gguf", file.path)
        return _source(file.files, file.header, reader, config, tensors)


def _check_kind(reader: Fields) -> None:
    architecture = reader.word("general.architecture")
    if architecture is None:
        raise FormatError(f"{reader.path} lacks general.architecture")
    if architecture != "llama":
        raise UnsupportedError(f"{reader.path}: this is a {architecture} model; Alpage runs llama")
    kind = reader.word("general.type") or "model"
    if kind != "model":
        raise UnsupportedError(f"{reader.path} holds a {kind}, not a whole model")
    experts = reader.integer("llama.expert_count", 0)
    if experts:
        raise UnsupportedError(
            f"{reader.path} is a mixture of {experts} experts; Alpage runs dense llama models"
        )


def _config(reader: Fields, stored: dict[str, Tensor]) -> LlamaConfig:
    embedding = stored.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise FormatError(f"{reader.path} lacks the matrix token_embd.weight")
    vocab_size = embedding.shape[0]
    tokens = len(reader.texts("tokenizer.ggml.tokens"))
    if tokens and tokens != vocab_size:
        raise FormatError(
            f"{reader.path}: the tokenizer has {tokens} tokens, but tensor token_embd.weight has "
            f"{vocab_size} rows"
        )
    dim = reader.integer("llama.embedding_length")
    heads = reader.integer("llama.attention.head_count")
    if dim < 1 or heads < 1:
        raise FormatError(f"{reader.path}: {dim} dimensions in {heads} heads cannot be")
    head_dim = _head_dim(reader, dim, heads)
    scaling, factors = _rope(reader, stored.get("rope_freqs.weight"), head_dim)
    return LlamaConfig(
        vocab_size=vocab_size,
        dim=dim,
        n_layers=reader.integer("llama.block_count"),
        n_heads=heads,
        n_kv_heads=reader.integer("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn_dim=reader.integer("llama.feed_forward_length"),
        context_length=reader.integer("llama.context_length"),
        norm_eps=reader.number("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=reader.number("llama.rope.freq_base", 10_000.0),
        rope_scaling=scaling,
        rope_factors=factors,
        tied="output.weight" not in stored,
    )


def _head_dim(reader: Fields, dim: int, heads: int) -> int:
    rotated = reader.integer("llama.rope.dimension_count", 0)
    head_dim = reader.integer("llama.attention.key_length", 0) or rotated
    if not head_dim:
        head_dim, rest = divmod(dim, heads)
        if rest:
            raise FormatError(f"{reader.path}: {dim} dimensions do not divide into {heads} heads")
    if not 1 <= head_dim <= _MAX_HEAD_DIM:
        raise FormatError(f"{reader.path}: a head of {head_dim} dimensions cannot be")
    values = reader.integer("llama.attention.value_length", head_dim)
    if values != head_dim:
        raise UnsupportedError(
            f"{reader.path}: value heads of {values} beside key heads of {head_dim}; Alpage runs "
            "equal ones"
        )
    if rotated and rotated != head_dim:
        raise UnsupportedError(
            f"{reader.path} rotates {rotated} of {head_dim} dimensions of a head; Alpage runs "
            "models that rotate all"
        )
    return head_dim


def _rope(
    reader: Fields, stored: Tensor | None, head_dim: int
) -> tuple[RopeScaling | None, tuple[float, ...] | None]:
    """Linear scaling from metadata, and the factors of Llama 3.1 from their tensor."""
    kind = reader.word("llama.rope.scaling.type") or "linear"
    old = reader.number("llama.rope.scale_linear", 0.0)
    factor = reader.number("llama.rope.scaling.factor", old)
    scaling = None
    if kind != "none" and not (kind == "linear" and factor in (0.0, 1.0)):
        scaling = RopeScaling(kind, factor)
    if stored is None:
        return scaling, None
    if stored.shape != (head_dim // 2,):
        raise FormatError(
            f"{reader.path}: tensor rope_freqs.weight should have shape [{head_dim // 2}], "
            f"not {list(stored.shape)}"
        )
    factors = stored.dequantize().tolist()
    linear = scaling.factor if scaling else 1.0
    return None, tuple(value * linear for value in factors)


def _source(
    files: tuple[MappedFile, ...],
    header: Header,
    reader: Fields,
    config: LlamaConfig,
    tensors: dict[str, Tensor],
) -> ModelSource:
    bos = _token_id(reader, "bos", config.vocab_size)
    label = main_type(tensors)
    mix = _MIXES.get(reader.integer("general.file_type", -1), "")
    return ModelSource(
        path=reader.path,
        format="gguf",
        config=config,
        tensors=tensors,
        name=reader.label("general.name") or model_stem(reader.path.name),
        quantization=mix if mix.startswith(label) else label,
        chat_template=reader.text("tokenizer.chat_template"),
        gguf_metadata=header.metadata,
        gguf_kinds=header.kinds,
        bos_id=bos,
        eos_ids=_end_ids(reader, config.vocab_size),
        add_bos=_adds_bos(reader) and bos is not None,
        licence=reader.label("general.license"),
        lineage=_lineage(reader),
        files=files,
    )


def _token_id(reader: Fields, which: str, vocab_size: int) -> int | None:
    key = f"tokenizer.ggml.{which}_token_id"
    if key not in reader.values:
        return None
    value = reader.integer(key)
    if value in (-1, 0xFFFFFFFF):  # written by some converters for "none"
        return None
    if not 0 <= value < vocab_size:
        raise FormatError(f"{reader.path}: {key} is {value}; the vocabulary has {vocab_size}")
    return value


def _end_ids(reader: Fields, vocab_size: int) -> frozenset[int]:
    """Ids that end an answer: those declared, and control tokens known to end one."""
    declared = [_token_id(reader, which, vocab_size) for which in ("eos", "eot", "eom")]
    ids = {value for value in declared if value is not None}
    tokens = reader.texts("tokenizer.ggml.tokens")
    kinds = reader.values.get("tokenizer.ggml.token_type", [])
    for text in END_TOKENS:
        if text in tokens:
            index = tokens.index(text)
            if type(kinds) is list and index < len(kinds) and kinds[index] == _CONTROL_TOKEN:
                ids.add(index)
    return frozenset(ids)


def _adds_bos(reader: Fields) -> bool:
    """The file's word, or else what its kind of tokenizer does by default."""
    kind = reader.word("tokenizer.ggml.model")
    pre = reader.word("tokenizer.ggml.pre")
    default = kind == "llama" or pre in _PRE_TOKENIZERS_WITH_BOS
    return reader.flag("tokenizer.ggml.add_bos_token", default)


def _lineage(reader: Fields) -> Lineage:
    return Lineage(
        authors=reader.label("general.author") or reader.label("general.organization"),
        base_models=_listed(reader, "base_model"),
        datasets=_listed(reader, "dataset") or tuple(_texts_or_none(reader, "general.datasets")),
        contributions=(
            *(f"quantised by {name}" for name in [reader.label("general.quantized_by")] if name),
            *_texts_or_none(reader, CONTRIBUTIONS),
        ),
    )


def _listed(reader: Fields, what: str) -> tuple[str, ...]:
    """Names of `general.base_model.0.name`, ...1..., at most 100 of them."""
    names = []
    for index in range(min(reader.integer(f"general.{what}.count", 0), 100)):
        prefix = f"general.{what}.{index}."
        name = reader.label(prefix + "name")
        owner = reader.label(prefix + "organization")
        if name:
            names.append(f"{owner}/{name}" if owner else name)
    return tuple(names)


def _texts_or_none(reader: Fields, key: str) -> list[str]:
    value = reader.values.get(key)
    return [clean(text) for text in reader.texts(key)[:100]] if type(value) is list else []
