"""A plain quantiser for every weight type, so that tests can store any weights in any of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.weights.dequantize import BLOCK_LAYOUTS
from alpage.weights.tensor import TensorType

Floats = NDArray[np.float32]
Blocks = NDArray[Any]
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])


def quantise(kind: TensorType, weights: Floats) -> NDArray[np.uint8]:
    """File bytes of `weights` (whole blocks, in the file's order): the nearest step, no search."""
    layout = BLOCK_LAYOUTS[kind.name]
    groups = weights.reshape(-1, layout.weights)
    blocks: Blocks = np.zeros(len(groups), layout.dtype)
    if kind in (TensorType.F32, TensorType.F16):
        blocks["x"] = groups
    elif kind is TensorType.BF16:
        bits = groups.view(np.uint32)
        blocks["x"] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    elif kind is TensorType.Q6_K:
        _six(blocks, groups)
    elif kind in (TensorType.Q4_K, TensorType.Q5_K):
        _super(blocks, groups, 15 if kind is TensorType.Q4_K else 31)
    elif kind in (TensorType.Q4_1, TensorType.Q5_1):
        levels = 15 if kind is TensorType.Q4_1 else 31
        least = groups.min(axis=1, keepdims=True)
        blocks["m"] = least
        blocks["d"] = (groups.max(axis=1, keepdims=True) - least) / levels
        _pack(blocks, _steps(groups - blocks["m"].astype(np.float32), blocks["d"], 0, levels))
    elif kind is TensorType.Q2_K:
        _two(blocks, groups)
    elif kind is TensorType.Q3_K:
        _three(blocks, groups)
    elif kind is TensorType.IQ4_NL:
        blocks["d"] = np.abs(groups).max(axis=1, keepdims=True) / IQ4[-1]
        _pack(blocks, _nearest(groups, blocks["d"].astype(np.float32)))
    elif kind is TensorType.IQ4_XS:
        _iq4_xs(blocks, groups)
    else:
        zero = {TensorType.Q4_0: 8, TensorType.Q5_0: 16, TensorType.Q8_0: 128}[kind]
        blocks["d"] = np.abs(groups).max(axis=1, keepdims=True) / (zero - 1)
        steps = _steps(groups, blocks["d"], -zero, zero - 1)
        if kind is TensorType.Q8_0:
            blocks["qs"] = steps
        else:
            _pack(blocks, steps + zero)
    return blocks.view(np.uint8)


def _steps(values: Floats, scale: NDArray[Any], low: int, high: int) -> NDArray[np.int32]:
    scale = scale.astype(np.float32)
    ratio = np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)
    steps: NDArray[np.int32] = np.clip(np.rint(ratio), low, high).astype(np.int32)
    return steps


def _pack(blocks: Blocks, steps: NDArray[np.int32]) -> None:
    """32 steps into 16 bytes, and their fifth bits into four where the type has them."""
    blocks["qs"] = (steps[:, :16] & 15) | (steps[:, 16:] & 15) << 4
    if "qh" in (blocks.dtype.names or ()):
        blocks["qh"] = np.packbits((steps >> 4).astype(np.uint8), axis=1, bitorder="little")


def _super(blocks: Blocks, groups: Floats, levels: int) -> None:
    """Q4_K and Q5_K: eight groups of 32, each with a six-bit scale and minimum."""
    parts = groups.reshape(-1, 8, 32)
    least = np.minimum(parts.min(axis=2), 0)  # [n, 8]
    scale = (parts.max(axis=2) - least) / levels
    blocks["d"] = scale.max(axis=1, keepdims=True) / 63
    blocks["dmin"] = -least.min(axis=1, keepdims=True) / 63
    s, m = _steps(scale, blocks["d"], 0, 63), _steps(-least, blocks["dmin"], 0, 63)
    blocks["scales"][:, :4] = s[:, :4] | (s[:, 4:] >> 4) << 6
    blocks["scales"][:, 4:8] = m[:, :4] | (m[:, 4:] >> 4) << 6
    blocks["scales"][:, 8:] = (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    lift = (blocks["dmin"].astype(np.float32) * m)[:, :, None]
    steps = _steps(parts + lift, (blocks["d"].astype(np.float32) * s)[:, :, None], 0, levels)
    blocks["qs"] = ((steps[:, 0::2] & 15) | (steps[:, 1::2] & 15) << 4).reshape(-1, 128)
    if levels == 31:
        high = (steps >> 4).astype(np.uint8)  # [n, 8, 32]
        blocks["qh"] = np.packbits(high, axis=1, bitorder="little")[:, 0]


def _six(blocks: Blocks, groups: Floats) -> None:
    """Q6_K: a signed 8-bit scale per 16 weights."""
    parts = groups.reshape(-1, 16, 16)
    scale = np.abs(parts).max(axis=2) / 31
    blocks["d"] = scale.max(axis=1, keepdims=True) / 127
    s = _steps(scale, blocks["d"], -128, 127)
    blocks["scales"] = s
    steps = _steps(parts, (blocks["d"].astype(np.float32) * s)[:, :, None], -32, 31) + 32
    quarters = steps.reshape(-1, 2, 4, 32)
    low, high = quarters & 15, quarters >> 4
    blocks["ql"] = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(-1, 128)
    blocks["qh"] = (
        high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    ).reshape(-1, 64)


def _two(blocks: Blocks, groups: Floats) -> None:
    """Q2_K: sixteen groups of 16, each with a four-bit scale and minimum."""
    parts = groups.reshape(-1, 16, 16)
    least = np.minimum(parts.min(axis=2), 0)  # [n, 16]
    scale = (parts.max(axis=2) - least) / 3
    blocks["d"] = scale.max(axis=1, keepdims=True) / 15
    blocks["dmin"] = -least.min(axis=1, keepdims=True) / 15
    s, m = _steps(scale, blocks["d"], 0, 15), _steps(-least, blocks["dmin"], 0, 15)
    blocks["scales"] = s | m << 4
    lift = (blocks["dmin"].astype(np.float32) * m)[:, :, None]
    steps = _steps(parts + lift, (blocks["d"].astype(np.float32) * s)[:, :, None], 0, 3)
    _pack_pairs(blocks, steps)


def _three(blocks: Blocks, groups: Floats) -> None:
    """Q3_K: a signed six-bit scale per 16 weights, with the sign of the largest of them."""
    parts = groups.reshape(-1, 16, 16)
    at = np.abs(parts).argmax(axis=2)[:, :, None]
    scale = np.take_along_axis(parts, at, axis=2)[:, :, 0] / np.float32(-4)
    blocks["d"] = np.abs(scale).max(axis=1, keepdims=True) / 31
    s = _steps(scale, blocks["d"], -32, 31)
    raw = s + 32
    blocks["scales"][:, :8] = (raw[:, :8] & 15) | (raw[:, 8:] & 15) << 4
    high = (raw >> 4).reshape(-1, 4, 4)
    blocks["scales"][:, 8:] = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
    steps = _steps(parts, (blocks["d"].astype(np.float32) * s)[:, :, None], -4, 3) + 4
    _pack_pairs(blocks, steps & 3)
    third = (steps >> 2).astype(np.uint8).reshape(-1, 8, 32)
    blocks["hmask"] = np.packbits(third, axis=1, bitorder="little")[:, 0]


def _pack_pairs(blocks: Blocks, steps: NDArray[np.int32]) -> None:
    """256 steps of two bits into 64 bytes."""
    quarters = steps.reshape(-1, 2, 4, 32)
    blocks["qs"] = (
        quarters[:, :, 0] | quarters[:, :, 1] << 2 | quarters[:, :, 2] << 4 | quarters[:, :, 3] << 6
    ).reshape(-1, 64)


def _nearest(values: Floats, scale: Floats) -> NDArray[np.int32]:
    """Index of the value of `IQ4` that is nearest to values / scale."""
    ratio = np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)
    index: NDArray[np.int32] = np.searchsorted((IQ4[1:] + IQ4[:-1]) / 2, ratio).astype(np.int32)
    return index


def _iq4_xs(blocks: Blocks, groups: Floats) -> None:
    """IQ4_XS: a signed six-bit scale per 32 weights."""
    parts = groups.reshape(-1, 8, 32)
    scale = np.abs(parts).max(axis=2) / np.float32(IQ4[-1])
    blocks["d"] = scale.max(axis=1, keepdims=True) / 31
    s = _steps(scale, blocks["d"], -32, 31)
    s[:, ::2] *= -1  # both signs occur in files
    raw = s + 32
    blocks["scales_l"] = (raw[:, 0::2] & 15) | (raw[:, 1::2] & 15) << 4
    blocks["scales_h"] = ((raw >> 4) << np.arange(0, 16, 2)).sum(axis=1, keepdims=True)
    index = _nearest(parts, (blocks["d"].astype(np.float32) * s)[:, :, None])
    blocks["qs"] = (index[:, :, :16] | index[:, :, 16:] << 4).reshape(-1, 128)
