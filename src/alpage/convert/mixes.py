"""Which type each weight gets when a model is quantised: llama.cpp's usual choices.

The rules are those of `llama_model_quantize`, which judges them in the tests. Files of the same
name are then of the same size and about the same quality, whoever made them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from alpage.core.config import LlamaConfig
from alpage.weights.names import from_canonical
from alpage.weights.tensor import TensorType

Choose = Callable[[str, tuple[int, ...], TensorType], TensorType]


@dataclass(frozen=True, slots=True)
class Mix:
    """A name that people give to `alpage quantize`.

    `file_type` is `general.file_type` (llama.cpp, `llama_ftype`).
    """

    main: TensorType
    file_type: int
    summary: str


MIXES: dict[str, Mix] = {
    "F32": Mix(TensorType.F32, 0, "single precision, 32 bits a weight"),
    "F16": Mix(TensorType.F16, 1, "half precision, 16 bits a weight"),
    "BF16": Mix(TensorType.BF16, 32, "bfloat16, 16 bits a weight"),
    "Q8_0": Mix(TensorType.Q8_0, 7, "8.5 bits a weight; hardly any loss"),
    "Q6_K": Mix(TensorType.Q6_K, 18, "6.6 bits a weight; very little loss"),
    "Q5_K_M": Mix(TensorType.Q5_K, 17, "5.7 bits a weight; little loss"),
    "Q5_K_S": Mix(TensorType.Q5_K, 16, "5.5 bits a weight"),
    "Q5_1": Mix(TensorType.Q5_1, 9, "6 bits a weight, the older kind"),
    "Q5_0": Mix(TensorType.Q5_0, 8, "5.5 bits a weight, the older kind"),
    "Q4_K_M": Mix(TensorType.Q4_K, 15, "4.8 bits a weight; the usual choice"),
    "Q4_K_S": Mix(TensorType.Q4_K, 14, "4.6 bits a weight"),
    "Q4_1": Mix(TensorType.Q4_1, 3, "5 bits a weight, the older kind"),
    "Q4_0": Mix(TensorType.Q4_0, 2, "4.5 bits a weight, the older kind"),
}
"""From the largest to the smallest loss of size."""

ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

_FALLBACK = {
    TensorType.Q4_K: TensorType.Q5_0,
    TensorType.Q5_K: TensorType.Q5_1,
    TensorType.Q6_K: TensorType.Q8_0,
}
"""For rows that are no whole number of blocks of 256."""


def type_chooser(name: str, config: LlamaConfig, *, calibrated: bool = False) -> Choose:
    """The types of mix `name` (a key of MIXES) for a model, as `convert.gguf` asks for them.

    `calibrated`: whether importance is known, which changes the first layers of Q4_0 and Q5_0.
    """
    main = MIXES[name].main

    def choose(canonical: str, shape: tuple[int, ...], _: TensorType) -> TensorType:
        wanted = main
        if main.block_size > 1:
            wanted = _wanted(name, main, canonical, config, calibrated)
        return _fitting(wanted, shape[-1])

    return choose


def _wanted(
    name: str, main: TensorType, canonical: str, config: LlamaConfig, calibrated: bool
) -> TensorType:
    part, layer, layers = _place(canonical), _layer(canonical), config.n_layers
    # The head decides about every token: with tied weights it is the embedding.
    if part == ("token_embd" if config.tied else "output"):
        return main if main is TensorType.Q8_0 else TensorType.Q6_K
    if part == "attn_v":
        if name in ("Q4_K_M", "Q5_K_M") and _use_more_bits(layer, layers):
            return TensorType.Q6_K
        if name == "Q4_K_S" and layer < 4:
            return TensorType.Q5_K
        if main is TensorType.Q4_K and _is_70b(config):
            return TensorType.Q5_K  # eight query heads share it, so it is small
    if part == "ffn_down":
        if name in ("Q4_K_M", "Q5_K_M") and _use_more_bits(layer, layers):
            return TensorType.Q6_K
        if name == "Q4_K_S" and layer < layers // 8:
            return TensorType.Q5_K
        if name in ("Q4_0", "Q5_0") and calibrated and layer < layers // 8:
            return TensorType.Q4_1 if name == "Q4_0" else TensorType.Q5_1
    return main


def _use_more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _is_70b(config: LlamaConfig) -> bool:
    return config.n_layers == 80 and config.n_heads != config.n_kv_heads


def _fitting(wanted: TensorType, columns: int) -> TensorType:
    if columns % wanted.block_size == 0:
        return wanted
    smaller = _FALLBACK.get(wanted, TensorType.F16)
    return smaller if columns % smaller.block_size == 0 else TensorType.F16


def _place(canonical: str) -> str:
    """What GGUF calls it: ffn_down for layers.3.feed_forward.w2.weight."""
    return from_canonical(canonical, "gguf").removesuffix(".weight").split(".")[-1]


def _layer(canonical: str) -> int:
    return int(canonical.split(".")[1]) if canonical.startswith("layers.") else 0
