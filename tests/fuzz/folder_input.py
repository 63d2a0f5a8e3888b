"""Folders in Hugging Face's layout: a small valid one, and what can be wrong with its files."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tests.fuzz.gguf_input import MERGES, PIECES, SPECIAL, TEMPLATE
from tests.fuzz.values import (
    FLOATS,
    RAW_JSON,
    Patch,
    Raw,
    dump,
    integer,
    json_value,
    mutate_json,
    patch,
    patched,
    word,
)

DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
INDEX = "model.safetensors.index.json"
_SIZES = {
    "input_layernorm": (32,),
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "post_attention_layernorm": (32,),
    "mlp.gate_proj": (64, 32),
    "mlp.up_proj": (64, 32),
    "mlp.down_proj": (32, 64),
}
TENSORS: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (len(PIECES), 32),
    "model.norm.weight": (32,),
    **{f"model.layers.0.{name}.weight": size for name, size in _SIZES.items()},
}
README = """---
license: apache-2.0
base_model:
- someone/something
datasets: [a, b]
---
# A model
"""


def config() -> dict[str, Any]:
    """config.json of the small model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": len(PIECES),
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": [2, 4],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    }


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json of the small model."""
    return {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "add_bos_token": False,
        "chat_template": TEMPLATE,
    }


def tokenizer() -> dict[str, Any]:
    """tokenizer.json of the small model."""
    vocab = {piece: token for token, piece in enumerate(PIECES)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "added_tokens": [
            {
                "id": token,
                "content": text,
                "special": True,
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
                "normalized": False,
            }
            for token, text in enumerate(SPECIAL)
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": list(MERGES)},
    }


def sentencepiece_like() -> dict[str, Any]:
    """tokenizer.json of the kind that Llama 1 and 2 have: spaces as U+2581, byte fallback."""
    document = tokenizer()
    pieces = [
        *SPECIAL,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"abcde\u2581",
        "ab",
        "\u2581a",
    ]
    document.update(
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        pre_tokenizer=None,
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        model={
            "type": "BPE",
            "vocab": {piece: token for token, piece in enumerate(pieces)},
            "merges": ["a b", "\u2581 a"],
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": "<unk>",
        },
    )
    return document


@dataclass
class Shard:
    """A safetensors file: its table, the bytes behind it, and the length that it claims."""

    table: dict[str, Any]
    data: bytes
    length: int | None = None
    patches: list[Patch] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        table = dump(self.table).encode("utf-8", "surrogatepass")
        length = len(table) if self.length is None else self.length
        return patched(struct.pack("<Q", length & (1 << 64) - 1) + table + self.data, self.patches)


_WEIGHTS = {
    name: np.random.default_rng(at).standard_normal(size, dtype=np.float32).tobytes()
    for at, (name, size) in enumerate(TENSORS.items())
}


def shard(names: list[str], dtype: str, rows: int = len(PIECES)) -> Shard:
    """A valid safetensors file of these tensors, for a vocabulary of `rows`."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    place = 0
    for name in names:
        raw = _WEIGHTS[name]
        if name == "model.embed_tokens.weight":
            raw = (raw * (rows // len(PIECES) + 1))[: rows * 32 * 4]
        if dtype != "F32":  # the upper halves of float32 numbers: bfloat16, and some float16
            raw = np.frombuffer(raw, np.uint16)[1::2].tobytes()
            raw = bytes(len(raw)) if dtype == "F16" else raw
        size = [rows, 32] if name == "model.embed_tokens.weight" else list(TENSORS[name])
        table[name] = {"dtype": dtype, "shape": size, "data_offsets": [place, place + len(raw)]}
        place += len(raw)
        parts.append(raw)
    return Shard(table, b"".join(parts))


@dataclass
class FolderInput:
    """A model folder; `mutators` are what this target does to it."""

    mutators: "tuple[tuple[Mutator, float], ...]"
    documents: dict[str, Any]
    shards: dict[str, Shard]
    texts: dict[str, bytes] = field(default_factory=dict)
    patches: dict[str, list[Patch]] = field(default_factory=dict)

    def mutate(self, dice: Random) -> None:
        names, weights = zip(*((m, w) for m, w in self.mutators), strict=True)
        (mutator,) = dice.choices(names, weights)
        mutator(self, dice)

    def write(self, folder: Path) -> Path:
        files = {name: made.to_bytes() for name, made in self.shards.items()}
        for name, document in self.documents.items():
            files[name] = dump(document).encode("utf-8", "surrogatepass")
        files.update(self.texts)
        for name, data in files.items():
            (folder / name).write_bytes(patched(data, self.patches.get(name, [])))
        return folder


Mutator = Callable[[FolderInput, Random], None]


def small_folder(
    dice: Random, mutators: "tuple[tuple[Mutator, float], ...]", *, sharded: bool = False
) -> FolderInput:
    """A valid folder, with one or two safetensors files."""
    documents = {
        "config.json": config(),
        "tokenizer_config.json": tokenizer_config(),
        "tokenizer.json": tokenizer(),
    }
    dtype = dice.choice([*DTYPES])
    names = [*TENSORS]
    if not sharded:
        return FolderInput(mutators, documents, {"model.safetensors": shard(names, dtype)})
    halves = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    places = {name: file for file, held in halves.items() for name in held}
    documents[INDEX] = {"metadata": {"total_size": 1}, "weight_map": places}
    shards = {file: shard(held, dtype) for file, held in halves.items()}
    return FolderInput(mutators, documents, shards)


def any_shard(made: FolderInput, dice: Random) -> Shard:
    return made.shards[dice.choice(sorted(made.shards))]


def change_table(made: FolderInput, dice: Random) -> None:
    mutate_json(dice, any_shard(made, dice).table)


def change_tensor(made: FolderInput, dice: Random) -> None:
    """A field of one tensor, so that most of the table stays sensible."""
    some = any_shard(made, dice)
    names = [name for name, entry in some.table.items() if isinstance(entry, dict)]
    if not names:
        return
    name = dice.choice(names)
    entry = some.table[name]
    what = dice.randrange(7)
    if what == 0:
        entry["dtype"] = dice.choice((*DTYPES, "I8", "F64", "F8_E4M3", "f32", 7, None))
    elif what == 1:
        entry["shape"] = dice.choice(
            ([], [0], [32, 0], [1] * 9, [1 << 62, 4], [1 << 32, 1 << 32], [-1, -1], [32.0, 32])
        )
    elif what == 2:
        entry["data_offsets"] = dice.choice(
            ([0, 0], [64, 0], [0, 1 << 63], [-4, 0], [0], [0, 64, 128], [1 << 64, 1 << 65], "0")
        )
    elif what == 3 and isinstance(entry.get("data_offsets"), list):
        step = dice.choice((-4, 4, 64))
        entry["data_offsets"] = [n + step if type(n) is int else n for n in entry["data_offsets"]]
    elif what == 4:
        other = some.table[dice.choice(names)]
        some.table[name] = other
    elif what == 5:
        some.table[
            dice.choice(
                (
                    word(dice),
                    "lm_head.weight",
                    "model.layers.0.x.bias",
                    "model.layers.1.mlp.up_proj.weight",
                )
            )
        ] = some.table.pop(name)
    else:
        some.table[name] = Raw(dump(entry) + f',"{name}":' + dump(entry))


def change_file(made: FolderInput, dice: Random) -> None:
    some = any_shard(made, dice)
    what = dice.randrange(6)
    if what == 0:
        some.length = dice.choice((0, 1, 7, integer(dice), 1 << 24, (1 << 24) + 1, 1 << 63))
    elif what == 1:
        some.data = some.data[: dice.randrange(len(some.data) + 1)]
    elif what == 2:
        some.data += bytes(dice.choice((1, 4, 64, 4096)))
    elif what == 3:
        some.data = dice.randbytes(len(some.data))
    elif what == 4:
        odd = np.array(dice.choice(FLOATS), np.float64).astype(np.float32).tobytes()
        at = dice.randrange(max(1, len(some.data) // 4)) * 4
        some.data = some.data[:at] + odd + some.data[at + 4 :]
    else:
        table = len(dump(some.table)) + 8
        some.patches.append(patch(dice, head=table / (table + len(some.data) + 1)))


def change_index(made: FolderInput, dice: Random) -> None:
    index = made.documents.get(INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        made.documents[INDEX] = {"weight_map": {"a": word(dice)}}
        if "model.safetensors" in made.shards and dice.random() < 0.5:
            made.shards["c.safetensors"] = made.shards.pop("model.safetensors")
        return
    places = index["weight_map"]
    if not places or dice.random() < 0.3:
        mutate_json(dice, index)
        return
    name = dice.choice(list(places))
    odd = (
        "../a.safetensors",
        "/etc/a.safetensors",
        "a.safetensors/..",
        "A.safetensors",
        "c.safetensors",
        ".safetensors",
        "x/../a.safetensors",
        "b.safetensors",
        "a\\b.safetensors",
        "C:a.safetensors",
        "a.safetensors\0",
        "config.json",
        "model.safetensors.index.json",
    )
    places[name] = dice.choice((*odd, word(dice), json_value(dice)))


def change_document(*names: str) -> Mutator:
    """A mutator of these JSON files."""

    def change(made: FolderInput, dice: Random) -> None:
        name = dice.choice(names)
        document = made.documents.setdefault(name, {})
        if isinstance(document, dict | list) and dice.random() < 0.95:
            mutate_json(dice, document)
        else:
            made.documents[name] = dice.choice((json_value(dice), Raw(dice.choice(RAW_JSON))))

    return change


def change_bytes(*names: str) -> Mutator:
    """A mutator of the bytes of these files."""

    def change(made: FolderInput, dice: Random) -> None:
        made.patches.setdefault(dice.choice(names), []).append(patch(dice))

    return change


def change_text(made: FolderInput, dice: Random) -> None:
    """The files that are no JSON, and a file that should not be there."""
    name = dice.choice(("README.md", "chat_template.jinja", "generation_config.json"))
    text = dice.choice(
        (
            README,
            TEMPLATE,
            "",
            word(dice),
            "---\nlicense: " + word(dice) + "\n---",
            "---\n- a\n" + "- b\n" * 2000,
            "{{ messages[0].content }}",
        )
    )
    made.texts[name] = text.encode("utf-8", "surrogatepass")


SAFETENSORS = ((change_table, 2.0), (change_tensor, 4.0), (change_file, 3.0), (change_index, 2.0))
CONFIG = (
    (change_document("config.json"), 5.0),
    (change_document("generation_config.json", "tokenizer_config.json"), 2.0),
    (change_bytes("config.json", "tokenizer_config.json"), 0.5),
    (change_text, 1.0),
)
TOKENIZER_JSON = (
    (change_document("tokenizer.json"), 6.0),
    (change_document("tokenizer_config.json"), 1.0),
    (change_bytes("tokenizer.json"), 0.5),
)
