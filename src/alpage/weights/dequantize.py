"""From stored blocks to float32, in numpy: the plain definition of every weight type.

The block layouts are those of GGUF files (llama.cpp, `ggml-common.h`). Every product and sum is
done in float32 and in the order of llama.cpp's reference, so results agree to the last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Blocks = NDArray[Any]  # structured: one record a block


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """`weights` numbers are stored together in one record of type `dtype`."""

    weights: int
    dtype: np.dtype[Any]


def _layout(weights: int, *fields: tuple[str, str, int]) -> BlockLayout:
    return BlockLayout(weights, np.dtype([(name, kind, (count,)) for name, kind, count in fields]))


_D, _M, _DMIN = ("d", "<f2", 1), ("m", "<f2", 1), ("dmin", "<f2", 1)
_HIGH32, _LOW32, _SCALES = ("qh", "u1", 4), ("qs", "u1", 16), ("scales", "u1", 12)

BLOCK_LAYOUTS: dict[str, BlockLayout] = {
    "F32": _layout(1, ("x", "<f4", 1)),
    "F16": _layout(1, ("x", "<f2", 1)),
    "BF16": _layout(1, ("x", "<u2", 1)),
    "Q8_0": _layout(32, _D, ("qs", "i1", 32)),
    "Q4_0": _layout(32, _D, _LOW32),
    "Q4_1": _layout(32, _D, _M, _LOW32),
    "Q5_0": _layout(32, _D, _HIGH32, _LOW32),
    "Q5_1": _layout(32, _D, _M, _HIGH32, _LOW32),
    "Q2_K": _layout(256, ("scales", "u1", 16), ("qs", "u1", 64), _D, _DMIN),
    "Q3_K": _layout(256, ("hmask", "u1", 32), ("qs", "u1", 64), _SCALES, _D),
    "Q4_K": _layout(256, _D, _DMIN, _SCALES, ("qs", "u1", 128)),
    "Q5_K": _layout(256, _D, _DMIN, _SCALES, ("qh", "u1", 32), ("qs", "u1", 128)),
    "Q6_K": _layout(256, ("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D),
    "IQ4_NL": _layout(32, _D, _LOW32),
    "IQ4_XS": _layout(256, _D, ("scales_h", "<u2", 1), ("scales_l", "u1", 4), ("qs", "u1", 128)),
}

_IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)
"""What the 4-bit numbers of IQ4_NL and IQ4_XS stand for (`kvalues_iq4nl`)."""


def dequantize_blocks(kind: str, raw: Bytes, out: Floats) -> None:
    """Write the weights of `raw` (uint8, whole blocks of type `kind`) to `out` (float32, flat).

    Scales that are infinite or not a number give weights that are: checking is the caller's.
    """
    layout = BLOCK_LAYOUTS[kind]
    blocks = raw.view(layout.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        _DECODERS[kind](blocks, out.reshape(blocks.size, layout.weights))


def _f32(blocks: Blocks, out: Floats) -> None:
    out[...] = blocks["x"]


def _bf16(blocks: Blocks, out: Floats) -> None:
    """bfloat16 is the upper half of float32."""
    bits = out.view(np.uint32)
    bits[...] = blocks["x"]
    bits <<= np.uint32(16)


def _single(field: NDArray[Any]) -> Floats:
    """Half-precision scales [blocks, 1] as float32."""
    return field.astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """[n, 16] bytes -> [n, 32] numbers 0..15: all low halves first, then all high halves."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """[n, 4] bytes -> [n, 32] numbers 0 or 16: bit i belongs to weight i."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q8_0(blocks: Blocks, out: Floats) -> None:
    out[...] = blocks["qs"]
    out *= _single(blocks["d"])


def _q4_0(blocks: Blocks, out: Floats) -> None:
    out[...] = _nibbles(blocks["qs"])
    out -= np.float32(8)  # exact: small whole numbers
    out *= _single(blocks["d"])


def _q4_1(blocks: Blocks, out: Floats) -> None:
    out[...] = _nibbles(blocks["qs"])
    out *= _single(blocks["d"])
    out += _single(blocks["m"])


def _q5_0(blocks: Blocks, out: Floats) -> None:
    out[...] = _nibbles(blocks["qs"]) | _fifth_bits(blocks["qh"])
    out -= np.float32(16)
    out *= _single(blocks["d"])


def _q5_1(blocks: Blocks, out: Floats) -> None:
    out[...] = _nibbles(blocks["qs"]) | _fifth_bits(blocks["qh"])
    out *= _single(blocks["d"])
    out += _single(blocks["m"])


def _six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """[n, 12] bytes -> scales and minima [n, 8] of 6 bits each (Q4_K, Q5_K).

    Bytes 0-3 hold scales 0-3 in their low 6 bits, bytes 4-7 minima 0-3. Bytes 8-11 hold the low
    4 bits of scales 4-7 (low half) and minima 4-7 (high half), whose upper 2 bits are the upper
    2 bits of bytes 0-3 and 4-7.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    low, upper = np.uint8(63), np.uint8(0x30)
    scales = [first & low, (third & np.uint8(15)) | ((first >> np.uint8(2)) & upper)]
    minima = [second & low, (third >> np.uint8(4)) | ((second >> np.uint8(2)) & upper)]
    return np.concatenate(scales, axis=1), np.concatenate(minima, axis=1)


def _scale_and_shift(blocks: Blocks, groups: NDArray[np.float32]) -> None:
    """`groups` [n, 8, 32] of whole numbers -> weights, in place (Q4_K, Q5_K)."""
    scales, minima = _six_bit_scales(blocks["scales"])
    groups *= (_single(blocks["d"]) * scales.astype(np.float32))[:, :, None]
    groups -= (_single(blocks["dmin"]) * minima.astype(np.float32))[:, :, None]


def _q4_k(blocks: Blocks, out: Floats) -> None:
    """Eight groups of 32; bytes 32j to 32j+31 hold group 2j (low halves) and 2j+1 (high)."""
    groups = out.reshape(-1, 8, 32)
    packed = blocks["qs"].reshape(-1, 4, 32)
    groups[:, 0::2] = packed & np.uint8(15)
    groups[:, 1::2] = packed >> np.uint8(4)
    _scale_and_shift(blocks, groups)


def _q5_k(blocks: Blocks, out: Floats) -> None:
    """As Q4_K, and bit j of high byte i is the fifth bit of weight i of group j."""
    groups = out.reshape(-1, 8, 32)
    packed = blocks["qs"].reshape(-1, 4, 32)
    high = np.unpackbits(blocks["qh"][:, None, :], axis=1, bitorder="little") << np.uint8(4)
    groups[:, 0::2] = (packed & np.uint8(15)) | high[:, 0::2]
    groups[:, 1::2] = (packed >> np.uint8(4)) | high[:, 1::2]
    _scale_and_shift(blocks, groups)


def _q6_k(blocks: Blocks, out: Floats) -> None:
    """Two halves of 128 weights, each four groups of 32; sixteen signed scales, one per 16.

    In a half, group g takes the low (g < 2) or high nibble of low byte 32 (g % 2) + i, and bits
    2g, 2g + 1 of high byte i.
    """
    groups = out.reshape(-1, 2, 4, 32)
    low = blocks["ql"].reshape(-1, 2, 2, 32)
    high = blocks["qh"].reshape(-1, 2, 32)
    for group in range(4):
        nibble = (low[:, :, group % 2] >> np.uint8(4 * (group // 2))) & np.uint8(15)
        top = (high >> np.uint8(2 * group)) & np.uint8(3)
        groups[:, :, group] = nibble | (top << np.uint8(4))
    out -= np.float32(32)
    scales = _single(blocks["d"]) * blocks["scales"].astype(np.float32)
    sixteens = out.reshape(-1, 16, 16)
    sixteens *= scales[:, :, None]


def _crumbs(packed: Bytes) -> Bytes:
    """[n, 64] bytes -> [n, 2, 4, 32] numbers 0..3 (Q2_K, Q3_K).

    Bits 2g and 2g + 1 of byte 32 h + i make number i of group g in half h.
    """
    halves = packed.reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    numbers: Bytes = (halves >> shifts) & np.uint8(3)
    return numbers


def _q2_k(blocks: Blocks, out: Floats) -> None:
    """Sixteen groups of 16, each with a scale (low half of its byte) and a minimum (high)."""
    out[...] = _crumbs(blocks["qs"]).reshape(out.shape)
    sixteens = out.reshape(-1, 16, 16)
    scales, minima = blocks["scales"] & np.uint8(15), blocks["scales"] >> np.uint8(4)
    sixteens *= (_single(blocks["d"]) * scales.astype(np.float32))[:, :, None]
    sixteens -= (_single(blocks["dmin"]) * minima.astype(np.float32))[:, :, None]


def _q3_k(blocks: Blocks, out: Floats) -> None:
    """As Q2_K without minima; bit g of mask byte i is the third bit of weight i of group g of 32.

    Sixteen scales of 6 bits, less 32: scale k takes the low (k < 8) or high half of byte k % 8,
    and bits 2 (k / 4), 2 (k / 4) + 1 of byte 8 + k % 4.
    """
    third = np.unpackbits(blocks["hmask"][:, None, :], axis=1, bitorder="little") << np.uint8(2)
    out[...] = _crumbs(blocks["qs"]).reshape(out.shape) | third.reshape(out.shape)
    out -= np.float32(4)
    packed = blocks["scales"]
    low = np.concatenate([packed[:, :8] & np.uint8(15), packed[:, :8] >> np.uint8(4)], axis=1)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    high = ((packed[:, None, 8:] >> shifts) & np.uint8(3)).reshape(-1, 16)
    scales = (low | high << np.uint8(4)).astype(np.float32) - np.float32(32)
    sixteens = out.reshape(-1, 16, 16)
    sixteens *= (_single(blocks["d"]) * scales)[:, :, None]


def _iq4_nl(blocks: Blocks, out: Floats) -> None:
    out[...] = _IQ4_VALUES[_nibbles(blocks["qs"])]
    out *= _single(blocks["d"])


def _iq4_xs(blocks: Blocks, out: Floats) -> None:
    """Eight groups of 32 as in IQ4_NL, each with a scale of 6 bits, less 32."""
    out[...] = _IQ4_VALUES[_nibbles(blocks["qs"].reshape(-1, 16))].reshape(out.shape)
    low = np.stack([blocks["scales_l"] & np.uint8(15), blocks["scales_l"] >> np.uint8(4)], axis=2)
    high = (blocks["scales_h"] >> np.arange(0, 16, 2, dtype=np.uint16)) & np.uint16(3)
    scales = low.reshape(-1, 8) | high << np.uint16(4)
    groups = out.reshape(-1, 8, 32)
    groups *= (_single(blocks["d"]) * (scales.astype(np.float32) - np.float32(32)))[:, :, None]


_DECODERS: dict[str, Callable[[Blocks, Floats], None]] = {
    "F32": _f32,
    "F16": _f32,
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
