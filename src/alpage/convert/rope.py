"""Llama 3.1's rotary scaling in GGUF's form, one divisor a frequency, and back to parameters."""

import ctypes
import math
from dataclasses import replace

from alpage.core.config import LlamaConfig, RopeScaling
from alpage.core.errors import UnsupportedError

_CLOSE = 2e-6
"""Relative: other converters round the same formula differently in float32's last bits."""
_CONTEXTS = (8192, *(1 << power for power in range(8, 18)))
"""Original contexts that are tried, Llama 3.1's and 3.2's first."""


def factors_of(config: LlamaConfig) -> tuple[float, ...] | None:
    """Divisors (float32) of the plain frequencies, or None where GGUF needs none.

    Each is the float32 number whose quotient comes nearest to the scaled frequency.
    """
    if config.rope_factors is not None:
        return config.rope_factors
    if config.rope_scaling is None or config.rope_scaling.kind != "llama3":
        return None
    plain = replace(config, rope_scaling=None).inverse_frequencies()
    scaled = config.inverse_frequencies()
    return tuple(_divisor(p, s) for p, s in zip(plain, scaled, strict=True))


def scaling_of(config: LlamaConfig) -> RopeScaling | None:
    """The scaling as parameters, for formats that store no divisors.

    `UnsupportedError` where the divisors of a GGUF file are not those of Llama 3.1's formula.
    """
    factors = config.rope_factors
    if factors is None:
        return config.rope_scaling
    if all(factor == factors[0] for factor in factors):
        return None if factors[0] == 1 else RopeScaling("linear", factors[0])
    for context in _CONTEXTS:
        # Long wavelengths are divided by the factor itself, and those are the largest divisors.
        scaling = RopeScaling("llama3", max(factors), 1.0, 4.0, context)
        formula = factors_of(replace(config, rope_factors=None, rope_scaling=scaling))
        assert formula is not None
        if all(math.isclose(f, g, rel_tol=_CLOSE) for f, g in zip(factors, formula, strict=True)):
            return scaling
    raise UnsupportedError(
        "the rotary divisors of this GGUF file (rope_freqs.weight) are not those of Llama 3.1's "
        "scaling, and other formats have no place for them; convert it to GGUF only"
    )


def _divisor(plain: float, scaled: float) -> float:
    """The float32 d for which float32(plain / d) is `scaled`, or comes nearest to it."""
    first = _float32(plain / scaled)
    step = 2.0 ** (math.frexp(first)[1] - 24)
    near = [first, *(_float32(first + n * step) for n in (-1, 1, -2, 2))]
    return min(near, key=lambda d: abs(_float32(plain / d) - scaled))


def _float32(value: float) -> float:
    return ctypes.c_float(value).value
