"""PyTorch checkpoints: the zip archive and the pickle of a small one, and what an attacker writes.

Both are assembled here byte by byte, so that every field can lie: `zipfile` and `pickle` would not
write most of these.
"""

import functools
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from tests.fuzz.folder_input import TENSORS
from tests.fuzz.tokenizer_model_input import ROWS

_NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "model.layers": "layers",
}
_SPLIT_BY_COLUMNS = ("attention.wo", "feed_forward.w2")  # of two shards; norms are in both


@dataclass
class Member:
    """One file in the archive; None means the true value."""

    name: bytes
    data: bytes
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    offset: int | None = None
    extra: bytes = b""
    local_name: bytes | None = None
    hidden: bool = False
    """In the archive, but not in its directory."""


@functools.lru_cache(16)
def deflated(data: bytes) -> bytes:
    """Compressed as in an archive."""
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


def zip_bytes(
    members: list[Member], comment: bytes = b"", lies: dict[str, int] | None = None
) -> bytes:
    """An archive (APPNOTE.TXT 4.3), members aligned to 64 bytes as PyTorch does."""
    out, directory = bytearray(), bytearray()
    for member in members:
        packed = member.data
        if member.method == 8:
            packed = deflated(member.data)
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        size = len(member.data) if member.size is None else member.size
        shown = len(packed) if member.packed is None else member.packed
        fields = (member.flags, member.method, 0, 0, crc & M32, shown & M32, size & M32)
        name = member.name if member.local_name is None else member.local_name
        place = len(out)
        padding = -(place + 30 + len(name) + 4) % 64
        out += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, *fields, len(name), 4 + padding)
        out += name + struct.pack("<HH", 0x4246, padding) + b"Z" * padding + packed
        if not member.hidden:
            offset = place if member.offset is None else member.offset
            directory += (
                struct.pack(
                    "<4sHHHHHHIIIHHHHHII",
                    b"PK\1\2",
                    20,
                    20,
                    *fields,
                    len(member.name),
                    len(member.extra),
                    0,
                    0,
                    0,
                    0,
                    offset & M32,
                )
                + member.name
                + member.extra
            )
    count = sum(not member.hidden for member in members)
    end: dict[str, int] = {"disk": 0, "count": count, "size": len(directory), "offset": len(out)}
    end.update(lies or {})
    return (
        bytes(out + directory)
        + struct.pack(
            "<4sHHHHIIH",
            b"PK\5\6",
            end["disk"] & M16,
            0,
            end["count"] & M16,
            end["count"] & M16,
            end["size"] & M32,
            end["offset"] & M32,
            len(comment) & M16,
        )
        + comment
    )


M16, M32 = 0xFFFF, 0xFFFFFFFF


def text(value: str | bytes) -> bytes:
    """A string of a pickle."""
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """An integer of a pickle."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def named(name: str) -> bytes:
    """A global of a pickle, by "module name"."""
    module, _, rest = name.partition(" ")
    return b"c" + module.encode() + b"\n" + rest.encode() + b"\n"


def numbers(values: tuple[int, ...]) -> bytes:
    """A tuple of integers."""
    return b"(" + b"".join(map(number, values)) + b"t"


@dataclass
class Stored:
    """One tensor of the pickle: a view of a storage."""

    name: str
    size: tuple[int, ...]
    key: str
    count: int
    storage: str = "torch BFloat16Storage"
    rebuild: str = "torch._utils _rebuild_tensor_v2"
    offset: int = 0
    stride: tuple[int, ...] | None = None
    device: str = "cpu"
    raw: bytes | None = None
    """The opcodes of the value, in place of the tensor."""

    def opcodes(self) -> list[bytes]:
        """Name and value, one piece an opcode or a few."""
        if self.raw is not None:
            return [text(self.name), self.raw]
        stride = self.stride or tuple(
            math.prod(self.size[at + 1 :]) for at in range(len(self.size))
        )
        return [
            text(self.name),
            named(self.rebuild),
            b"(",
            b"(",
            text("storage"),
            named(self.storage),
            text(self.key),
            text(self.device),
            number(self.count),
            b"t",
            b"Q",
            number(self.offset),
            numbers(self.size),
            numbers(stride),
            b"\x89",
            named("collections OrderedDict"),
            b")",
            b"R",
            b"t",
            b"R",
        ]


@dataclass
class Archive:
    """One checkpoint file."""

    tensors: list[Stored]
    storages: dict[str, bytes]
    opcodes: list[tuple[float, bytes]] = field(default_factory=list)
    """Foreign opcodes, and where they go (0 to 1)."""
    dropped: list[float] = field(default_factory=list)
    changes: list["tuple[Callable[[list[Member], Random], None], int]"] = field(
        default_factory=list
    )
    lies: dict[str, int] = field(default_factory=dict)
    comment: bytes = b""
    root: str = "consolidated"

    def pickle(self) -> bytes:
        parts = [b"\x80\x02", b"}", b"("]
        for tensor in self.tensors:
            parts += tensor.opcodes()
        parts += [b"u", b"."]
        for place in self.dropped:
            del parts[min(int(place * len(parts)), len(parts) - 1)]
        for place, code in self.opcodes:
            parts.insert(int(place * (len(parts) + 1)), code)
        return b"".join(parts)

    def to_bytes(self) -> bytes:
        members = [Member(f"{self.root}/data.pkl".encode(), self.pickle())]
        members.append(Member(f"{self.root}/byteorder".encode(), b"little"))
        for key, data in self.storages.items():
            members.append(Member(f"{self.root}/data/{key}".encode(), data))
        members.append(Member(f"{self.root}/version".encode(), b"3\n"))
        for change, seed in self.changes:
            change(members, Random(seed))
        return zip_bytes(members, self.comment, self.lies)


def params() -> dict[str, Any]:
    """params.json of the small model."""
    return {
        "dim": 32,
        "n_layers": 1,
        "n_heads": 4,
        "n_kv_heads": 2,
        "vocab_size": ROWS,
        "multiple_of": 16,
        "ffn_dim_multiplier": 0.75,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "use_scaled_rope": False,
    }


@functools.lru_cache(200)
def _weights(count: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(count, dtype=np.float32).view(np.uint16)[1::2].tobytes()


def small_archive(shards: int = 1, at: int = 0) -> Archive:
    """A valid checkpoint, or one of two shards of it, in bfloat16."""
    tensors, storages = [], {}
    sizes = {**TENSORS, "model.embed_tokens.weight": (ROWS, 32), "lm_head.weight": (ROWS, 32)}
    for number_, (theirs, size) in enumerate(sizes.items()):
        name = theirs.replace("lm_head", "output")
        for old, new in _NAMES.items():
            name = name.replace(old, new)
        if shards > 1 and len(size) == 2:
            across = name.split(".weight")[0].endswith((*_SPLIT_BY_COLUMNS, "tok_embeddings"))
            size = (size[0], size[1] // 2) if across else (size[0] // 2, size[1])
        count = math.prod(size)
        storages[str(number_)] = _weights(count, 0 if len(size) == 1 else at)
        tensors.append(Stored(name, size, str(number_), count))
    return Archive(tensors, storages)
