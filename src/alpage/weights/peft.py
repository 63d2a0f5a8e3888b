"""Reader of LoRA adapters as PEFT saves them: adapter_config.json and adapter_model.safetensors.

LoRA: Hu et al. 2021 (arXiv 2106.09685); rsLoRA, which scales by alpha / sqrt(rank): Kalajdzievski
2023 (arXiv 2312.03732). What an adapter asks for beyond these is refused by name: leaving it out
would compute something else silently.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.core.config import LlamaConfig
from alpage.core.errors import FormatError, NotFoundError, UnsupportedError
from alpage.weights.fields import Fields, clean, read_json
from alpage.weights.lora import LoraAdapter, LoraMatrix
from alpage.weights.mapped import MappedFile
from alpage.weights.names import expected_shapes, from_canonical, to_canonical
from alpage.weights.safetensors import read_safetensors
from alpage.weights.tensor import Tensor

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_MAX_CONFIG = 1 << 22
_MAX_RANK = 1 << 16
_MAX_PATTERNS = 10_000
_PREFIX = "base_model.model."
_HALF = re.compile(r"(.+)\.lora_(A|B)\.weight", re.ASCII)
_PLAIN_KEY = re.compile(r"\^?[A-Za-z0-9_.]+", re.ASCII)

_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias",
         "init_lora_weights"}  # fmt: skip
_OF_TRAINING = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip
"""How an adapter was made, or which modules it has: the weights say the same."""
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "mica", "orthogonal")
"""Values of `init_lora_weights` that leave the base weights as they are."""


def read_adapter(path: Path, config: LlamaConfig) -> LoraAdapter:
    """Read the adapter in folder `path`, for a model of shape `config`.

    Raises `NotFoundError` for a folder without an adapter, `FormatError` for one that is damaged,
    contradicts itself or has another shape than the model, `UnsupportedError` for adapters other
    than plain LoRA of a layer's matrices, and for pickled weights.
    """
    if not (path / CONFIG_NAME).exists():
        raise NotFoundError(f"{path} holds no adapter: it has no {CONFIG_NAME}")
    fields = read_json(path / CONFIG_NAME, _MAX_CONFIG)
    _check_kind(fields)
    ranks = _Pattern(fields, "rank_pattern", "r")
    alphas = _Pattern(fields, "alpha_pattern", "lora_alpha")
    root = fields.flag("use_rslora", False)
    file = MappedFile(_weights_path(path))
    try:
        matrices = {}
        for name, (a, b) in _pairs(file, config).items():
            module = from_canonical(name, "huggingface").removesuffix(".weight")
            rank = _rank(file.path, ranks, module, a)
            scale = alphas.number(module) / (math.sqrt(rank) if root else rank)
            matrices[name] = LoraMatrix(_finite(file.path, a), _finite(file.path, b), scale)
        return LoraAdapter(path.name, matrices)
    finally:
        file.close()


def _check_kind(fields: Fields) -> None:
    """Refuse whatever would make the adapter more than y += scale * B (A x)."""
    kind = fields.word("peft_type")
    if kind is None:
        raise FormatError(f"{fields.path} lacks peft_type")
    if kind != "LORA":
        raise UnsupportedError(f"{fields.path}: this is a {kind} adapter; Alpage runs LORA")
    start = fields.values.get("init_lora_weights")
    if not any(type(start) is type(plain) and start == plain for plain in _PLAIN_STARTS):
        raise UnsupportedError(
            f"{fields.path}: init_lora_weights is {start!r:.40}, which changes the base weights; "
            "convert the adapter to plain LoRA with PEFT (save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )
    if fields.word("bias") not in (None, "none"):
        raise UnsupportedError(
            f"{fields.path}: bias is {fields.word('bias')}; Alpage runs adapters without bias "
            "weights (none)"
        )
    for key, value in fields.values.items():
        # What is empty or off changes nothing, even an option that does not exist yet.
        if key not in _READ | _OF_TRAINING and value not in (None, False, "", [], {}):
            raise UnsupportedError(
                f"{fields.path}: {clean(key)!r:.80} is set; Alpage runs plain LoRA, without it"
            )


class _Pattern:
    """A number with exceptions by module, as `rank_pattern` and `alpha_pattern` have them."""

    def __init__(self, fields: Fields, key: str, default: str) -> None:
        self._key = key
        self._default = _number(fields, default)
        section = fields.section(key) or Fields(fields.path, {})
        if len(section.values) > _MAX_PATTERNS:
            raise FormatError(f"{fields.path}: {key} has {len(section.values):,} entries")
        self._by_end: dict[str, tuple[int, float]] = {}  # the earliest entry wins, as in PEFT
        for place, pattern in enumerate(section.values):
            if not _PLAIN_KEY.fullmatch(pattern):
                raise UnsupportedError(
                    f"{fields.path}: {key} has the pattern {pattern!r:.80}; Alpage understands "
                    "names of modules or their ends, like q_proj or layers.0.self_attn.q_proj"
                )
            self._by_end[pattern] = place, _number(section, pattern)

    def number(self, module: str) -> float:
        """The number of a module such as model.layers.0.self_attn.q_proj."""
        parts = module.split(".")
        ends = [".".join(parts[at:]) for at in range(len(parts))]
        found = [self._by_end[end] for end in (*ends, "^" + module) if end in self._by_end]
        return min(found)[1] if found else self._default


def _number(fields: Fields, key: str) -> float:
    value = fields.number(key)
    if not (math.isfinite(value) and abs(value) < 1e9):
        raise FormatError(f"{fields.path}: {clean(key)} should be a finite number, not {value}")
    return value


def _weights_path(path: Path) -> Path:
    if (path / WEIGHTS_NAME).exists():
        return path / WEIGHTS_NAME
    if (path / "adapter_model.bin").exists():
        raise UnsupportedError(
            f"{path} has its weights in adapter_model.bin, a pickle, which can run code when it is "
            f"read; Alpage reads {WEIGHTS_NAME}: load the adapter with PEFT where you trust it, "
            "and save it with save_pretrained(folder, safe_serialization=True)"
        )
    raise NotFoundError(f"{path} lacks {WEIGHTS_NAME}; the download is incomplete; pull it again")


def _pairs(file: MappedFile, config: LlamaConfig) -> dict[str, tuple[Tensor, Tensor]]:
    """Both halves of each changed matrix, shapes checked, in the order of the model's layers."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_safetensors(file).items():
        module, half = _half(file.path, name)
        canonical = to_canonical(module + ".weight", "huggingface")
        if canonical is None or not canonical.startswith("layers.") or "norm" in canonical:
            raise UnsupportedError(
                f"{file.path} changes {module}; Alpage runs adapters of the layers' q_proj, "
                "k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj"
            )
        halves.setdefault(canonical, {})[half] = tensor
    result = {}
    for name, shape in expected_shapes(config):
        if name in halves:
            result[name] = _pair(file.path, name, shape, halves.pop(name))
    for name in halves:
        raise FormatError(
            f"{file.path} changes {from_canonical(name, 'huggingface')}, which a model of "
            f"{config.n_layers} layers does not have: the adapter is of another model"
        )
    if not result:
        raise FormatError(f"{file.path} holds no LoRA weights")
    return result


def _half(path: Path, name: str) -> tuple[str, str]:
    """Module and half (A or B) of a tensor's name in the file."""
    if ".lora_magnitude_vector" in name:
        raise UnsupportedError(f"{path} is a DoRA adapter ({name}); Alpage runs plain LoRA")
    match = _HALF.fullmatch(name.removeprefix(_PREFIX))
    if match is None or not name.startswith(_PREFIX):
        raise UnsupportedError(
            f"{path} holds {name}; Alpage reads weights named {_PREFIX}...lora_A.weight and "
            "...lora_B.weight, plain LoRA"
        )
    return match[1], match[2]


def _pair(
    path: Path, name: str, shape: tuple[int, ...], halves: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    theirs = from_canonical(name, "huggingface").removesuffix(".weight")
    if len(halves) != 2:
        raise FormatError(
            f"{path} is damaged: {theirs} has lora_{next(iter(halves))} but not its other half"
        )
    a, b = halves["A"], halves["B"]
    rank = a.shape[0]
    rows, columns = shape
    if a.shape != (rank, columns) or b.shape != (rows, rank):
        raise FormatError(
            f"{path}: lora_A and lora_B of {theirs} have shapes {list(a.shape)} and "
            f"{list(b.shape)}; this model needs [rank, {columns}] and [{rows}, rank]: the adapter "
            "is of another model, or damaged"
        )
    if rank > _MAX_RANK:
        raise UnsupportedError(f"{path}: {theirs} has rank {rank:,}; at most {_MAX_RANK:,} can be")
    return a, b


def _rank(path: Path, ranks: _Pattern, module: str, a: Tensor) -> int:
    promised = ranks.number(module)
    if promised != a.shape[0]:
        raise FormatError(
            f"{path}: {module} has rank {a.shape[0]}; {CONFIG_NAME} says {promised:g}"
        )
    return a.shape[0]


def _finite(path: Path, tensor: Tensor) -> NDArray[Any]:
    values = tensor.dequantize()
    if not np.isfinite(values).all():
        raise FormatError(
            f"{path}: tensor {tensor.name} holds NaN or infinite weights: the file is damaged"
        )
    return values
