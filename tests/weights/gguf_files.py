"""Writes GGUF files for tests, right ones and wrong ones: every field can be forced."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.weights.tensor import TensorType

STRING, ARRAY, BOOL, U32, I32, F32, U64 = 8, 9, 7, 4, 5, 6, 10
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


@dataclass
class Stored:
    """One tensor: `dims` in the file's order (columns first); offset None means the next free."""

    name: str
    dims: Sequence[int]
    type_id: int
    data: bytes
    offset: int | None = None


@dataclass
class GgufFile:
    metadata: list[tuple[str, int, Any]] = field(default_factory=list)
    tensors: list[Stored] = field(default_factory=list)
    version: int = 3
    alignment: int = 32
    tensor_count: int | None = None
    entry_count: int | None = None

    def set(self, key: str, kind: int, value: Any) -> "GgufFile":
        self.metadata = [entry for entry in self.metadata if entry[0] != key]
        self.metadata.append((key, kind, value))
        return self

    def drop(self, name: str) -> "GgufFile":
        self.metadata = [entry for entry in self.metadata if entry[0] != name]
        self.tensors = [tensor for tensor in self.tensors if tensor.name != name]
        return self

    def tensor(self, name: str) -> Stored:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def header(self) -> bytes:
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        entries = len(self.metadata) if self.entry_count is None else self.entry_count
        out = b"GGUF" + struct.pack("<IQQ", self.version, tensors, entries)
        for key, kind, value in self.metadata:
            out += text(key) + struct.pack("<I", kind) + encode(kind, value)
        place = 0
        for tensor in self.tensors:
            offset = place if tensor.offset is None else tensor.offset
            out += text(tensor.name) + struct.pack("<I", len(tensor.dims))
            out += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
            out += struct.pack("<IQ", tensor.type_id, offset)
            place = self.padded(offset + len(tensor.data))
        return out

    def padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment

    def to_bytes(self) -> bytes:
        out = self.header()
        out += bytes(self.padded(len(out)) - len(out))
        start = len(out)
        for tensor in self.tensors:
            place = len(out) if tensor.offset is None else start + tensor.offset
            gap = place - len(out)
            out += bytes(gap if 0 < gap < 1 << 20 else 0) + tensor.data
            out += bytes(self.padded(len(out)) - len(out))
        return out

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def encode(kind: int, value: Any) -> bytes:
    """A metadata value; an array is (element kind, values), raw bytes go in as they are."""
    if isinstance(value, bytes) and kind != STRING:
        return value
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(encode(inner, v) for v in values)
    return struct.pack("<" + CODES[kind], value)


def quantised(kind: TensorType, shape: tuple[int, ...], seed: int = 0) -> bytes:
    """Random bytes of a tensor, its half-precision scales kept small and finite."""
    rng = np.random.default_rng(seed)
    if kind is TensorType.F32:
        return rng.standard_normal(shape, dtype=np.float32).tobytes()
    from alpage.weights.dequantize import BLOCK_LAYOUTS

    layout = BLOCK_LAYOUTS[kind.name]
    count = int(np.prod(shape)) // layout.weights
    blocks = rng.integers(0, 256, count * layout.dtype.itemsize, dtype=np.uint8).view(layout.dtype)
    for name in ("d", "m", "dmin", "x"):
        if name in (layout.dtype.names or ()):
            values: NDArray[Any] = rng.standard_normal((count, 1)).astype(np.float16)
            blocks[name] = values if name != "x" or kind is TensorType.F16 else 0x3F80
    return blocks.tobytes()


TOKENS = ["<unk>", "<s>", "</s>", "<|im_end|>", *(f"t{i}" for i in range(28))]


def tiny_model(*, tied: bool = True, kind: TensorType = TensorType.F32) -> GgufFile:
    """Two layers, 32 tokens, dim 32, 4 heads of 8 over 2 kv heads, ffn 64; weights random."""
    file = GgufFile()
    file.set("general.architecture", STRING, "llama").set("general.name", STRING, "tiny")
    for key, value in {
        "block_count": 2, "context_length": 128, "embedding_length": 32,
        "feed_forward_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2,
        "rope.dimension_count": 8,
    }.items():  # fmt: skip
        file.set(f"llama.{key}", U32, value)
    file.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    file.set("llama.rope.freq_base", F32, 10000.0)
    file.set("tokenizer.ggml.model", STRING, "gpt2")
    file.set("tokenizer.ggml.tokens", ARRAY, (STRING, TOKENS))
    file.set("tokenizer.ggml.token_type", ARRAY, (I32, [3, 3, 3, 3, *[1] * 28]))
    file.set("tokenizer.ggml.bos_token_id", U32, 1).set("tokenizer.ggml.eos_token_id", U32, 2)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (32, 32), "output_norm": (32,)}
    if not tied:
        shapes["output"] = (32, 32)
    for layer in range(2):
        for name, shape in {
            "attn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32),
            "attn_output": (32, 32), "ffn_norm": (32,), "ffn_gate": (64, 32),
            "ffn_up": (64, 32), "ffn_down": (32, 64),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{name}"] = shape
    for seed, (name, shape) in enumerate(shapes.items()):
        used = kind if len(shape) == 2 else TensorType.F32
        data = quantised(used, shape, seed)
        file.tensors.append(Stored(f"{name}.weight", shape[::-1], int(used), data))
    return file
