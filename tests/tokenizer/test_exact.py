"""Ids equal those of tiktoken, of `tokenizers` pipelines made elsewhere, and of plain regex."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tests.tokenizer.cases import (
    GPT2,
    RULES,
    byte_strings,
    gguf_judge,
    strings,
)
from tokenizers import Tokenizer as HfTokenizer

from alpage.tokenizer import Tokenizer, from_gguf, from_tokenizer_json


def without(missing: frozenset[int], data: bytes) -> bytes:
    return bytes(byte for byte in data if byte not in missing)


def hf_document(metadata: dict[str, Any], pre: dict[str, Any]) -> dict[str, Any]:
    """`tokenizer.json` as the model's authors would write it, from the GGUF's lists."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    special = [
        {"id": i, "content": tokens[i], "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for i, kind in enumerate(types) if kind == 3
    ]  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "ignore_merges": False, "vocab": {text: i for i, text in enumerate(tokens)},
        "merges": metadata["tokenizer.ggml.merges"],
    }  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": None, "pre_tokenizer": pre, "post_processor": None, "decoder": byte_level,
        "model": model,
    }  # fmt: skip


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": True}  # fmt: skip
DIGITS = {"type": "Digits", "individual_digits": True}
SMOLLM = {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]}


def test_enough_varied_strings() -> None:
    assert len(set(strings())) >= 10_000
    assert len(set(byte_strings())) >= 1_900
    assert len(set("".join(strings()))) > 14_000


def test_llama3_equals_tiktoken(llama3: Tokenizer, judge: tiktoken.Encoding) -> None:
    for text in strings():
        ids = llama3.encode(text)
        assert ids == judge.encode_ordinary(text), repr(text)
        assert llama3.decode(ids) == text
        assert llama3.decode_bytes(ids) == text.encode()


def test_llama3_special_tokens_equal_tiktoken(llama3: Tokenizer, judge: tiktoken.Encoding) -> None:
    for text in strings():
        if "<|" in text:
            ids = llama3.encode(text, special=True)
            assert ids == judge.encode(text, allowed_special="all"), repr(text)
            assert llama3.decode(ids, skip_special=False) == text


def test_llama3_vocabulary_equals_tiktoken(llama3: Tokenizer, judge: tiktoken.Encoding) -> None:
    assert llama3.vocab_size == judge.n_vocab == 128_256
    for token in range(judge.n_vocab):
        assert llama3.token_bytes(token) == judge.decode_single_token_bytes(token)


def test_surrogates_behave_as_tiktoken_does(llama3: Tokenizer, judge: tiktoken.Encoding) -> None:
    for text in ("\ud800", "a\udfffb", "\ud83d\ude00", "x\ud83d\ude00\ud83d", "é\udc80\ud800"):
        assert llama3.encode(text) == judge.encode_ordinary(text)
        segments = [(text[:1], False), (text[1:], False)]
        assert llama3.encode_segments(segments) == judge.encode_ordinary(text)


@pytest.mark.parametrize("rule", list(RULES))
def test_each_rule_equals_plain_regex_and_tiktoken_merging(
    metadata: dict[str, Any], rule: str
) -> None:
    ours = from_gguf({**metadata, "tokenizer.ggml.pre": rule})
    judge = gguf_judge(metadata, rule)
    every = 1 if rule in ("llama-bpe", "smollm") else 3  # the two that models here use
    compared = 0
    for text in strings()[::every]:
        ids = ours.encode(text)
        expressible = without(ours.missing_bytes, text.encode())
        assert ours.decode_bytes(ids) == expressible
        # tiktoken cannot do without a byte: there the judge is the pipeline of `tokenizers`.
        if expressible == text.encode():
            compared += 1
            assert ids == judge(text), repr(text)
    assert compared >= 9_000 // every


def test_smollm_equals_the_authors_pipeline(
    metadata: dict[str, Any], smollm: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(hf_document(metadata, SMOLLM)))
    judge = HfTokenizer.from_file(str(path))
    judge.encode_special_tokens = True
    ours = from_tokenizer_json(path)
    for text in strings():
        expected = judge.encode(text, add_special_tokens=False).ids
        assert smollm.encode(text) == ours.encode(text) == expected, repr(text)
    judge.encode_special_tokens = False
    for text in strings():
        if "<" in text:
            expected = judge.encode(text, add_special_tokens=False).ids
            assert smollm.encode(text, special=True) == expected, repr(text)
            assert ours.encode(text, special=True) == expected, repr(text)


def test_gpt2_pipelines_of_tokenizer_json(metadata: dict[str, Any], tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Removed", "invert": True}
    forms: list[dict[str, Any]] = [BYTE_LEVEL, {"type": "Sequence", "pretokenizers": [
        split, {**BYTE_LEVEL, "use_regex": False}]}]  # fmt: skip
    judge = from_gguf({**metadata, "tokenizer.ggml.pre": "gpt-2"})
    for form in forms:
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(hf_document(metadata, form)))
        ours = from_tokenizer_json(path)
        assert all(ours.encode(text) == judge.encode(text) for text in strings()[::5])


def test_llama3_tokenizer_json_written_by_transformers(
    llama3: Tokenizer, llama3_tokenizer_path: Path, tmp_path: Path
) -> None:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    specials = list(llama3.special_ids)
    convert: Any = TikTokenConverter
    converter = convert(str(llama3_tokenizer_path), extra_special_tokens=specials)
    converter.converted().save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = from_tokenizer_json(tmp_path / "tokenizer.json")
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (128_256, 128_000, 128_009)
    assert ours.special_ids == llama3.special_ids
    for text in strings()[::2]:
        assert ours.encode(text) == llama3.encode(text)


def test_bytes_round_trip_and_invalid_ones_stand_alone(
    smollm: Tokenizer, llama3: Tokenizer, judge: tiktoken.Encoding
) -> None:
    for data in byte_strings():
        ids = llama3.encode(data)
        assert llama3.decode_bytes(ids) == data
        expected = without(smollm.missing_bytes, data)
        assert smollm.decode_bytes(smollm.encode(data)) == expected
    one = judge.encode_single_token
    expected_ids = [*judge.encode_ordinary("abc"), one(b"\xff"), one(b"\xe4"), one(b"\xb8")]
    assert llama3.encode(b"abc\xff\xe4\xb8 de") == expected_ids + judge.encode_ordinary(" de")


def test_real_texts_round_trip(
    smollm: Tokenizer, llama3: Tokenizer, judge: tiktoken.Encoding, shared_data: Path
) -> None:
    for name in ("wikitext2_test.txt", "tinyshakespeare.txt"):
        text = (shared_data / name).read_text()
        ids = llama3.encode(text)
        assert ids == judge.encode_ordinary(text)
        assert llama3.decode(ids) == text
        assert smollm.decode(smollm.encode(text)) == text
