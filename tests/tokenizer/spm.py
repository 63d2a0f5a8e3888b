"""SentencePiece models trained for the tests, and judges made of other people's software."""

import functools
import io
import struct
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tests.tokenizer.cases import CODE, SENTENCES, strings

KINDS: dict[str, dict[str, Any]] = {
    "llama2": {},
    "control": {"control_symbols": ["<|im_start|>", "<|im_end|>", "[INST]"]},
    "user": {"user_defined_symbols": ["<think>", "▁<PRE>", "xx"]},
    "extra": {"remove_extra_whitespaces": True, "user_defined_symbols": ["<think>", "xx"]},
    "bare": {"add_dummy_prefix": False},
    "across": {"split_by_whitespace": False},
}
"""Settings of training beside those that Llama 2 used."""


@functools.cache
def trained(kind: str) -> bytes:
    """A BPE model with byte fallback of 4,000 pieces, learnt from sentences in 40 languages."""
    texts = [*SENTENCES.values(), *CODE, *(t.replace("\n", " ") for t in strings()[300:1500])]
    return train(texts, vocab_size=4000, character_coverage=0.98, **KINDS[kind])


def train(texts: list[str], **options: Any) -> bytes:
    written = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "split_digits": True, "num_threads": 1,
        "allow_whitespace_only_pieces": True, "minloglevel": 2,
    }  # fmt: skip
    settings.update(options)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, **settings
    )
    return written.getvalue()


def judge_of(model: bytes) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def write_gguf(path: Path, metadata: dict[str, Any]) -> None:
    """A GGUF file that holds a vocabulary and no weights, written by the `gguf` package."""
    from gguf import GGUFValueType, GGUFWriter

    writer = GGUFWriter(path, "llama")
    for key, (kinds, value) in metadata.items():
        types = [*map(GGUFValueType, kinds), None]
        writer.add_key_value(key, value, types[0], types[1])  # type: ignore[arg-type]
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp_of(path: Path, metadata: dict[str, Any]) -> Any:
    """llama.cpp with the vocabulary that `metadata` describes."""
    llama_cpp: Any = pytest.importorskip("llama_cpp")
    write_gguf(path, metadata)
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


def field(number: int, value: bytes | int | float) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])
