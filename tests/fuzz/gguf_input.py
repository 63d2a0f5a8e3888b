"""GGUF files: a small valid one, and what can be wrong with its header, metadata and tensors."""

import functools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tests.fuzz.values import FLOATS, Patch, integer, patch, patched, word
from tests.weights.gguf_files import (
    ARRAY,
    BOOL,
    CODES,
    F32,
    I32,
    STRING,
    U32,
    GgufFile,
    Stored,
    encode,
    text,
)

from alpage.weights.dequantize import BLOCK_LAYOUTS
from alpage.weights.tensor import TensorType

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
ALL = (1 << 64) - 1
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
LETTERS = "abcdefghiĠ"
MERGES = ("a b", "ab c", "d e", "Ġ a")
PIECES = (*SPECIAL, *LETTERS, "ab", "abc", "de", "Ġa")
KEYS = (
    "general.architecture", "general.type", "general.alignment", "general.file_type",
    "general.name", "general.license", "general.author", "general.datasets",
    "general.base_model.count", "general.base_model.0.name", "general.quantized_by",
    "llama.block_count", "llama.context_length", "llama.embedding_length",
    "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.head_count_kv",
    "llama.attention.key_length", "llama.attention.value_length", "llama.expert_count",
    "llama.attention.layer_norm_rms_epsilon", "llama.rope.dimension_count",
    "llama.rope.freq_base", "llama.rope.scaling.type", "llama.rope.scaling.factor",
    "llama.rope.scale_linear", "llama.vocab_size", "split.count", "split.no",
    "split.tensors.count", "tokenizer.ggml.model", "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id", "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.chat_template",
)  # fmt: skip
_LIMITS = {kind: (8 * np.dtype(code).itemsize, code.islower()) for kind, code in CODES.items()}


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, chosen so that it is valid and small."""

    dim: int = 32
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    ffn: int = 64
    layers: int = 1
    tied: bool = True


@functools.lru_cache(4096)
def tensor_bytes(kind: TensorType, count: int, seed: int) -> bytes:
    """Random weights of whole blocks, scales small and finite."""
    layout = BLOCK_LAYOUTS[kind.name]
    blocks = count // layout.weights
    rng = np.random.default_rng(seed)
    if kind is TensorType.F32:
        return rng.standard_normal(count, dtype=np.float32).tobytes()
    raw = rng.integers(0, 256, blocks * layout.dtype.itemsize, dtype=np.uint8).view(layout.dtype)
    for name in ("d", "m", "dmin", "x"):
        if name in (layout.dtype.names or ()):
            small = rng.standard_normal((blocks, 1)).astype(np.float32) * 0.1
            bits = small.view(np.uint32) >> 16
            raw[name] = bits if kind is TensorType.BF16 else small.astype(np.float16)
    return raw.tobytes()


def set_sizes(file: GgufFile, shape: Shape) -> None:
    """The metadata that says `shape`."""
    for key, value in {
        "block_count": shape.layers, "context_length": 128, "embedding_length": shape.dim,
        "feed_forward_length": shape.ffn, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "rope.dimension_count": shape.head_dim,
        "attention.key_length": shape.head_dim, "attention.value_length": shape.head_dim,
    }.items():  # fmt: skip
        file.set(f"llama.{key}", U32, value)


def set_tensors(file: GgufFile, shape: Shape, dice: Random, kinds: list[TensorType]) -> None:
    """All tensors of `shape`, of random types among `kinds` where whole blocks fit."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(PIECES), shape.dim), "output_norm": (shape.dim,)
    }  # fmt: skip
    if not shape.tied:
        sizes["output"] = (len(PIECES), shape.dim)
    for layer in range(shape.layers):
        for name, size in {
            "attn_norm": (shape.dim,), "attn_q": (queries, shape.dim), "attn_k": (keys, shape.dim),
            "attn_v": (keys, shape.dim), "attn_output": (shape.dim, queries),
            "ffn_norm": (shape.dim,), "ffn_gate": (shape.ffn, shape.dim),
            "ffn_up": (shape.ffn, shape.dim), "ffn_down": (shape.dim, shape.ffn),
        }.items():  # fmt: skip
            sizes[f"blk.{layer}.{name}"] = size
    file.tensors.clear()
    for name, size in sizes.items():
        fitting = [kind for kind in kinds if size[-1] % kind.block_size == 0]
        kind = dice.choice(fitting) if len(size) > 1 and fitting else TensorType.F32
        data = tensor_bytes(kind, math.prod(size), dice.randrange(3))
        file.tensors.append(Stored(f"{name}.weight", size[::-1], int(kind), data))


def small_model(dice: Random, shape: Shape, kinds: list[TensorType]) -> GgufFile:
    """A valid model with a tokenizer of letters."""
    file = GgufFile()
    file.set("general.architecture", STRING, "llama").set("general.name", STRING, "tiny")
    set_sizes(file, shape)
    file.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    file.set("llama.rope.freq_base", F32, 10000.0)
    file.set("tokenizer.ggml.model", STRING, "gpt2")
    file.set("tokenizer.ggml.pre", STRING, dice.choice(("gpt-2", "smollm", "gpt-2", "llama-bpe")))
    file.set("tokenizer.ggml.tokens", ARRAY, (STRING, list(PIECES)))
    types = [3] * len(SPECIAL) + [1] * (len(PIECES) - len(SPECIAL))
    file.set("tokenizer.ggml.token_type", ARRAY, (I32, types))
    file.set("tokenizer.ggml.merges", ARRAY, (STRING, list(MERGES)))
    file.set("tokenizer.ggml.bos_token_id", U32, 1).set("tokenizer.ggml.eos_token_id", U32, 2)
    file.set("tokenizer.chat_template", STRING, TEMPLATE)
    set_tensors(file, shape, dice, kinds)
    return file


def number_of(kind: int, dice: Random) -> Any:
    """A value that fits into the GGUF number `kind`."""
    if kind in (6, 12):
        value = dice.choice(FLOATS)
        return float(np.float32(value)) if kind == 6 and abs(value) < 3e38 else value
    if kind == BOOL:
        return dice.choice((0, 1, 1, 2, 255))
    bits, signed = _LIMITS[kind]
    value = integer(dice) & (1 << bits) - 1
    return value - (1 << bits) if signed and value >> bits - 1 else value


def safe_text(text: str) -> bytes:
    """UTF-8, or bytes that are none where the text has surrogates."""
    return text.encode("utf-8", "surrogatepass")


def value_of(dice: Random, depth: int = 0) -> tuple[int, Any]:
    """A kind of metadata and a value of it; arrays may nest too deep or hold what they may not."""
    kind = dice.choice((*CODES, STRING, STRING, ARRAY, ARRAY, 13, 255))
    if kind in (13, 255):
        return kind, b"\0" * dice.randrange(9)
    if kind == STRING:
        return kind, safe_text(word(dice))
    if kind != ARRAY:
        return kind, number_of(kind, dice) if kind != 6 else b"\0\0\x80\x7f"
    if dice.random() < 0.15:  # a count that lies
        count = integer(dice) & (1 << 64) - 1
        return kind, dice.choice((*CODES, STRING, ARRAY, 77)).to_bytes(4, "little") + (
            count.to_bytes(8, "little") + bytes(dice.randrange(40))
        )
    if depth < 6 and dice.random() < 0.3:
        return kind, (ARRAY, [value_of_array(dice, depth + 1) for _ in range(dice.randrange(4))])
    return kind, value_of_array(dice, depth)


def value_of_array(dice: Random, depth: int) -> Any:
    """The element kind and the elements of an array."""
    kind = dice.choice((*CODES, STRING, STRING))
    count = dice.choice((0, 1, 2, len(PIECES), 100))
    if kind == STRING:
        return kind, [safe_text(word(dice)) for _ in range(min(count, 20))]
    if depth > 5:
        return kind, []
    return kind, [number_of(kind, dice) if kind != 6 else 1.0 for _ in range(count)]


def file_bytes(file: GgufFile) -> bytes:
    """As `GgufFile.to_bytes`, for numbers of any size: they wrap, and far offsets leave no gap."""
    tensors = len(file.tensors) if file.tensor_count is None else file.tensor_count
    entries = len(file.metadata) if file.entry_count is None else file.entry_count
    out = [b"GGUF", struct.pack("<IQQ", file.version, tensors & ALL, entries & ALL)]
    for key, kind, value in file.metadata:
        out += (text(key), struct.pack("<I", kind), encode(kind, value))
    place, places = 0, []
    for tensor in file.tensors:
        offset = place if tensor.offset is None else tensor.offset
        places.append(offset)
        out += (text(tensor.name), struct.pack("<I", len(tensor.dims)))
        out += (struct.pack("<Q", dim & ALL) for dim in tensor.dims)
        out.append(struct.pack("<IQ", tensor.type_id & 0xFFFFFFFF, offset & ALL))
        place = file.padded(offset + len(tensor.data))
    head = b"".join(out)
    body = bytearray(-len(head) % file.alignment)
    start = len(body)
    for place, tensor in zip(places, file.tensors, strict=True):
        if place < 1 << 20:
            body.extend(bytes(max(0, start + place + len(tensor.data) - len(body))))
            body[start + place : start + place + len(tensor.data)] = tensor.data
    body.extend(bytes(-len(body) % file.alignment))
    return head + body


@dataclass
class GgufInput:
    """A GGUF file to be damaged."""

    file: GgufFile
    shape: Shape
    kinds: list[TensorType]
    patches: list[Patch] = field(default_factory=list)
    only_weights: bool = False

    def mutate(self, dice: Random) -> None:
        mutators = WEIGHTS if self.only_weights else MUTATORS
        names, weights = zip(*((m, w) for m, w in mutators), strict=True)
        (mutator,) = dice.choices(names, weights)
        mutator(self, dice)

    def write(self, folder: Path) -> Path:
        path = folder if folder.suffix == ".gguf" else folder / "model.gguf"
        path.write_bytes(patched(file_bytes(self.file), self.patches))
        return path


def _set_value(made: GgufInput, dice: Random) -> None:
    file = made.file
    keys = [key for key, _, _ in file.metadata]
    key = dice.choice(keys) if keys and dice.random() < 0.6 else dice.choice(KEYS)
    old = next((entry for entry in file.metadata if entry[0] == key), None)
    if old is not None and dice.random() < 0.6:  # another value of the same kind
        kind = old[1]
        if kind == STRING:
            file.set(key, kind, safe_text(word(dice)))
        elif kind in CODES and kind not in (6, 12):
            file.set(key, kind, number_of(kind, dice))
        elif kind in CODES:
            code = np.dtype("<" + CODES[kind])
            with np.errstate(over="ignore"):
                file.set(key, kind, np.array(dice.choice(FLOATS), code).tobytes())
        elif isinstance(old[2], tuple):
            _change_array(file, key, old[2], dice)
        return
    file.set(key, *value_of(dice))


def _change_array(file: GgufFile, key: str, value: Any, dice: Random) -> None:
    kind, items = value[0], list(value[1])
    if kind == ARRAY:  # arrays in arrays
        file.set(key, ARRAY, (kind, [*items, value_of_array(dice, 3)]))
        return
    what = dice.randrange(6)
    at = dice.randrange(len(items)) if items else 0
    if what == 0 or not items:
        items.insert(at, safe_text(word(dice)) if kind == STRING else 1)
    elif what == 1:
        del items[at]
    elif what == 2:
        items[at] = items[dice.randrange(len(items))]
    elif what == 3 and dice.random() < 0.02:
        items = items * dice.choice((100, 3000))
    elif kind == STRING:
        items[at] = safe_text(word(dice))
    elif kind in CODES and kind not in (6, 12):
        items[at] = number_of(kind, dice) if dice.random() < 0.5 else dice.randrange(8)
    file.set(key, ARRAY, (kind, items))


def _reorder(made: GgufInput, dice: Random) -> None:
    metadata = made.file.metadata
    if not metadata:
        return
    at = dice.randrange(len(metadata))
    what = dice.randrange(4)
    if what == 0:
        metadata.append(metadata[at])
    elif what == 1:
        del metadata[at]
    elif what == 2:
        key = dice.choice((*KEYS, word(dice).encode("utf-8", "replace").decode()))
        metadata[at] = (key, *metadata[at][1:])
    else:
        dice.shuffle(metadata)


def _counts(made: GgufInput, dice: Random) -> None:
    file = made.file
    what = dice.randrange(4)
    big = integer(dice) & (1 << 64) - 1
    if what == 0:
        file.tensor_count = dice.choice((big, len(file.tensors) + dice.choice((-1, 1))))
        file.tensor_count = max(0, file.tensor_count)
    elif what == 1:
        file.entry_count = max(0, dice.choice((big, len(file.metadata) + dice.choice((-1, 1)))))
    elif what == 2:
        file.version = dice.choice((0, 1, 2, 4, 1 << 24, 2 << 24, 3 << 24, big & 0xFFFFFFFF))
    else:
        value = dice.choice((1, 2, 8, 16, 64, 256, 4096, 65536, 0, 3, 1 << 31))
        file.set("general.alignment", U32, value)
        file.alignment = value if value in (1, 2, 8, 16, 64, 256, 4096) else 32


def _tensor(made: GgufInput, dice: Random) -> None:
    file = made.file
    if not file.tensors:
        return
    at = dice.randrange(len(file.tensors))
    old = file.tensors[at]
    what = dice.randrange(9)
    if what == 0:
        dims = list(old.dims)
        dims[dice.randrange(len(dims))] = integer(dice) & (1 << 64) - 1
        old.dims = dims
    elif what == 1:
        old.dims = dice.choice((old.dims[::-1], [*old.dims, 1], [1, *old.dims], [], [1] * 9))
        old.dims = old.dims or [old.type_id]
    elif what == 2:
        old.type_id = dice.choice((*map(int, TensorType), *range(42), 1 << 31))
    elif what == 3:
        places = (0, 1, 16, 32, 64, 1 << 20, 1 << 40, (1 << 63) - 32, (1 << 64) - 32, (1 << 64) - 1)
        old.offset = dice.choice(places)
    elif what == 4:
        names = [tensor.name for tensor in file.tensors]
        odd = ("rope_freqs.weight", "output.weight", "blk.1.attn_q.weight", "blk.0.attn_q.bias",
               "blk.00.attn_q.weight", "blk.999999.ffn_up.weight", "blk.-1.ffn_up.weight",
               )  # fmt: skip
        old.name = dice.choice((*names, *odd, word(dice).encode("utf-8", "replace").decode()))
    elif what == 5:
        del file.tensors[at]
    elif what == 6:
        file.tensors.insert(dice.randrange(len(file.tensors)), replace(old))
    elif what == 7:
        old.data = old.data[: dice.randrange(len(old.data) + 1)]
    else:
        dice.shuffle(file.tensors)


def _reshape(made: GgufInput, dice: Random) -> None:
    """Another valid model: odd sizes reach the kernels' edges."""
    dim = dice.choice((1, 2, 8, 31, 32, 33, 64, 96, 256))
    heads = dice.choice((1, 2, 3, 4, 8, 17))
    divisors = [n for n in range(1, heads + 1) if heads % n == 0]
    shape = Shape(
        dim=dim,
        heads=heads,
        kv_heads=dice.choice(divisors),
        head_dim=dice.choice((2, 4, 6, 8, 10, 16, 18, 30, 32, 64)),
        ffn=dice.choice((1, 2, 15, 16, 17, 32, 64, 100, 256)),
        layers=dice.choice((1, 1, 1, 2)),
        tied=dice.random() < 0.5,
    )
    made.shape = shape
    set_sizes(made.file, shape)
    set_tensors(made.file, shape, dice, made.kinds)


def _numbers(made: GgufInput, dice: Random) -> None:
    """Odd weights: whatever bytes, or one odd half, bfloat16 or float at a place of a number."""
    tensors = [tensor for tensor in made.file.tensors if tensor.data]
    if not tensors:
        return
    tensor = dice.choice(tensors)
    data = bytearray(tensor.data)
    what = dice.randrange(4)
    if what == 0:
        data = bytearray(dice.randbytes(len(data)))
    elif what == 1:
        data = bytearray(bytes([dice.choice((0, 1, 127, 128, 255))]) * len(data))
    else:
        kinds = {int(kind): BLOCK_LAYOUTS[kind.name].dtype.itemsize for kind in TensorType}
        size = kinds.get(tensor.type_id, 2)
        odd = (0x7C00, 0xFC00, 0x7E00, 0x7BFF, 0x0001, 0x7F80, 0x7FC0, 0xFF80, 0x7F7F)
        for _ in range(dice.choice((1, 1, 3))):
            at = dice.randrange(0, max(1, len(data) - 1), size)
            at += dice.choice((0, 2, size - 2)) if size >= 4 else 0
            data[at : at + 2] = dice.choice(odd).to_bytes(2, "little")
        data = data[: len(tensor.data)]
    tensor.data = bytes(data)


def _bytes(made: GgufInput, dice: Random) -> None:
    total = len(file_bytes(made.file))
    weights = sum(len(tensor.data) for tensor in made.file.tensors)
    made.patches.append(patch(dice, head=max(0.05, 1 - weights / total)))


Mutator = Callable[[GgufInput, Random], None]
MUTATORS: tuple[tuple[Mutator, float], ...] = (
    (_set_value, 5), (_reorder, 1), (_counts, 1), (_tensor, 4), (_reshape, 1), (_numbers, 2),
    (_bytes, 3),
)  # fmt: skip
WEIGHTS: tuple[tuple[Mutator, float], ...] = ((_reshape, 1), (_numbers, 3))
