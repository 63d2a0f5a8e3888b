"""The shape of a Llama model: one frozen value that readers fill and that every engine runs."""

import ctypes
import math
from dataclasses import dataclass

from alpage.core.errors import FormatError, UnsupportedError


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Rotary frequency scaling.

    `kind` is "llama3" (Llama 3.1, `llama_models/llama3/model.py`: long wavelengths divided by
    `factor`, short ones kept, a linear blend between) or "linear" (all divided by `factor`).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self) -> None:
        if self.kind not in ("llama3", "linear"):
            raise UnsupportedError(
                f"rope scaling {self.kind!r} is not supported; Alpage runs 'llama3' and 'linear'"
            )
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise FormatError(f"rope scaling factor must be positive, not {self.factor}")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise FormatError(
                "rope scaling needs 0 < low_freq_factor < high_freq_factor, not "
                f"{self.low_freq_factor} and {self.high_freq_factor}"
            )


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Hyperparameters of one model, in the names of Meta's `params.json` where it has one.

    `rope_factors`, of length head_dim / 2, divides the plain rotary frequencies one by one: GGUF
    stores Llama 3.1's scaling in that form (tensor `rope_freqs.weight`). It excludes
    `rope_scaling`.
    """

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    context_length: int
    norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    rope_factors: tuple[float, ...] | None = None
    tied: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim",
                     "ffn_dim", "context_length"):  # fmt: skip
            value = getattr(self, name)
            if value < 1 or value > 1 << 30:
                raise FormatError(f"{name} must be between 1 and 2^30, not {value}")
        if self.n_heads % self.n_kv_heads:
            raise FormatError(
                f"{self.n_heads} attention heads cannot share {self.n_kv_heads} key/value heads "
                "evenly"
            )
        if self.head_dim % 2:
            raise FormatError(f"head_dim must be even for rotary embedding, not {self.head_dim}")
        if not (math.isfinite(self.norm_eps) and self.norm_eps > 0):
            raise FormatError(f"norm_eps must be positive, not {self.norm_eps}")
        if not 1 <= self.rope_theta <= 1e30:
            raise FormatError(f"rope_theta must be between 1 and 1e30, not {self.rope_theta}")
        if self.rope_factors is not None:
            if self.rope_scaling is not None:
                raise FormatError("a model has rope_factors or rope_scaling, not both")
            if len(self.rope_factors) != self.head_dim // 2:
                raise FormatError(
                    f"rope_factors needs head_dim / 2 = {self.head_dim // 2} values, "
                    f"not {len(self.rope_factors)}"
                )
            if not all(math.isfinite(f) and f > 0 for f in self.rope_factors):
                raise FormatError("every rope factor must be positive and finite")

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head (grouped-query attention)."""
        return self.n_heads // self.n_kv_heads

    @property
    def parameter_count(self) -> int:
        """Weights of the model; a tied output head counts once."""
        attention = self.dim * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        heads = 1 if self.tied else 2
        return self.n_layers * layer + heads * self.vocab_size * self.dim + self.dim

    def kv_bytes_per_token(self, element_bytes: int = 2) -> int:
        """Key and value cache of one token over all layers, in bytes."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * element_bytes

    def inverse_frequencies(self) -> tuple[float, ...]:
        """Rotation per position of each of the head_dim / 2 pairs, in radians, scaling applied.

        The values are float32 numbers, every step rounded as the code that models are trained with
        rounds it (Meta's `llama_models`, `transformers`): more exact ones move the logits of a
        135M model by up to 3e-4 within 1,000 tokens. Engines multiply them by positions in float32.
        """
        exponents = [_float32(2 * i / self.head_dim) for i in range(self.head_dim // 2)]
        plain = [_float32(1 / _float32(self.rope_theta**e)) for e in exponents]
        if self.rope_factors is not None:
            return tuple(_float32(f / d) for f, d in zip(plain, self.rope_factors, strict=True))
        if self.rope_scaling is None:
            return tuple(plain)
        return tuple(_scale_frequency(f, self.rope_scaling) for f in plain)


def _float32(value: float) -> float:
    """The float32 number nearest to `value` (infinity when it is too large for one)."""
    return ctypes.c_float(value).value


def _scale_frequency(frequency: float, scaling: RopeScaling) -> float:
    """One rotary frequency after `scaling` (Llama 3.1: by wavelength against the old context)."""
    if scaling.kind == "linear":
        return _float32(frequency / scaling.factor)
    wavelength = _float32(_float32(1 / frequency) * _float32(2 * math.pi))
    if wavelength > scaling.original_context / scaling.low_freq_factor:
        return _float32(frequency / scaling.factor)
    if wavelength < scaling.original_context / scaling.high_freq_factor:
        return frequency
    waves = _float32(_float32(1 / wavelength) * scaling.original_context)
    smooth = _float32(
        _float32(waves - scaling.low_freq_factor)
        / (scaling.high_freq_factor - scaling.low_freq_factor)
    )
    long = _float32(_float32(_float32(1 - smooth) * frequency) / scaling.factor)
    return _float32(long + _float32(smooth * frequency))
