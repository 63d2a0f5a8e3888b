"""Hostile and unsupported tokenizer files: one clear error each, with the value."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpage.core.errors import AlpageError, FormatError, NotFoundError, UnsupportedError
from alpage.tokenizer import from_gguf, from_tiktoken, from_tokenizer_json
from alpage.tokenizer.bytelevel import BYTE_TO_CHAR, bytes_of, piece_of
from alpage.tokenizer.merging import recover_merges


def small(**changes: Any) -> dict[str, Any]:
    """A tiny GGUF vocabulary: 256 bytes, two merges, one control token; keys without prefix."""
    fields: dict[str, Any] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [*BYTE_TO_CHAR, "ab", "abc", "<|im_end|>"],
        "token_type": [1] * 258 + [3],
        "merges": ["a b", "ab c"],
        "bos_token_id": 258,
        "eos_token_id": 258,
        "add_bos_token": False,
    }
    fields.update(changes)
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items() if value is not None}


def test_small_vocabulary() -> None:
    ours = from_gguf(small())
    assert ours.encode("abcab") == [257, 256]
    assert ours.decode([257, 256]) == "abcab"
    for none in (-1, 0xFFFFFFFF):
        assert from_gguf(small(eos_token_id=none)).eos_id is None
    numpy = small(token_type=np.array([1] * 258 + [3], np.int32), eos_token_id=np.uint32(258))
    assert from_gguf(numpy).encode("abcab<|im_end|>", special=True) == [257, 256, 258]


def test_alphabet() -> None:
    assert [bytes_of(char) for char in BYTE_TO_CHAR] == [bytes([byte]) for byte in range(256)]
    assert piece_of(b" \n\xffa") == "ĠĊÿa"
    assert bytes_of("日") == "日".encode(), "a foreign character stands for itself"
    assert bytes_of("a b") == b"a b"


def test_defaults_of_llama_cpp() -> None:
    assert from_gguf(small(pre="llama-bpe", add_bos_token=None)).add_bos
    assert not from_gguf(small(pre="llama-bpe", add_bos_token=None, bos_token_id=None)).add_bos
    assert not from_gguf(small(add_bos_token=None)).add_bos
    unnamed = from_gguf(small(pre=None))
    assert unnamed.encode("a!b 12345") == from_gguf(small(pre="default")).encode("a!b 12345")


def test_ignore_merges_of_llama_bpe() -> None:
    tokens = [*BYTE_TO_CHAR, "ab", "abc", "xyz", "<|im_end|>"]
    whole = small(tokens=tokens, token_type=[1] * 259 + [3], bos_token_id=None, eos_token_id=None)
    assert from_gguf(whole).encode("xyz") == [BYTE_TO_CHAR.index(char) for char in "xyz"]
    whole["tokenizer.ggml.pre"] = "llama-bpe"
    assert from_gguf(whole).encode("xyz") == [258]
    # A control token stays out of reach even where a whole split has its text.
    whole["tokenizer.ggml.token_type"] = [1] * 258 + [3, 3]
    assert from_gguf(whole).encode("xyz") == [BYTE_TO_CHAR.index(char) for char in "xyz"]


def test_token_types() -> None:
    tokens = [*BYTE_TO_CHAR[:255], "ab", "abc", "<unk>", "<x>", "", "", "<0xFF>", "<|eot_id|>"]
    types = [1] * 257 + [2, 4, 5, 5, 6, 1]
    ours = from_gguf(small(tokens=tokens, token_type=types, bos_token_id=None, eos_token_id=None))
    assert ours.encode("<unk><x>", special=True) == [257, 258]
    assert ours.encode("<x>") == [258]
    assert ours.encode(b"\xff") == [261] and ours.decode_bytes([261]) == b"\xff"
    assert ours.decode_bytes([259, 260]) == b""
    # Some converters forget to mark end tokens; no text may become one all the same.
    assert ours.is_special(262) and ours.stop_ids == {262}
    assert 262 not in ours.encode("<|eot_id|>")


def test_a_file_without_token_types() -> None:
    ours = from_gguf(small(token_type=None))
    assert ours.is_special(258) and ours.encode("<|im_end|>", special=True) == [258]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "tokenizer.ggml.model is missing"),
        ({"model": 5}, "tokenizer.ggml.model must be of type str, not int"),
        ({"pre": ["gpt-2"]}, "tokenizer.ggml.pre must be of type str, not list"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": []}, "the vocabulary is empty"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens must be an array, not str"),
        ({"tokens": [*BYTE_TO_CHAR, "ab", 7, "x"]}, r"tokens\[257\] must be of type str, not int"),
        ({"tokens": [*BYTE_TO_CHAR, "ab", "ab", "x"]}, "token 257 'ab' is in the vocabulary twice"),
        ({"token_type": [1] * 258}, "259 tokens, 258 token types"),
        ({"token_type": [1] * 258 + [9]}, r"token_type\[258\] must be 1 to 6, not 9"),
        ({"token_type": [1] * 258 + ["3"]}, r"token_type\[258\] must be of type int, not str"),
        ({"token_type": [1] * 258 + [6]}, "token 258 '<|im_end|>' is marked as a byte"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"merges": ["a b", "abc"]}, r"merges\[1\] must be two pieces with a space.*'abc'"),
        ({"merges": ["a b c"]}, r"merges\[0\] must be two pieces"),
        ({"merges": ["a b", "ab c", "a b"]}, "merges lists 'a b' twice"),
        ({"merges": ["a x"]}, "'a' \\+ 'x' needs the piece 'ax'"),
        ({"merges": ["a b", "ab zz"]}, "needs the piece 'zz'"),
        ({"token_type": [1] * 257 + [3, 3]}, "needs the piece 'abc', which is not an ordinary"),
        ({"bos_token_id": 259}, "bos_token_id is 259, outside the vocabulary of 259 tokens"),
        ({"eos_token_id": -2}, "eos_token_id is -2"),
        ({"eos_token_id": "258"}, "eos_token_id must be of type int, not str"),
        ({"eos_token_id": True}, "eos_token_id must be of type int, not bool"),
        ({"add_bos_token": 1}, "add_bos_token must be of type bool, not int"),
        ({"add_bos_token": True, "bos_token_id": None}, "bos_token_id is missing"),
    ],
)
def test_contradictory_metadata(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message.replace("|", r"\|")):
        from_gguf(small(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "tokenizer model 'bert' is not supported"),
        ({"pre": "qwen2"}, "'qwen2' is not supported.*llama-bpe, smollm, gpt-2, default"),
        ({"add_space_prefix": True}, "add_space_prefix is true"),
    ],
)
def test_unsupported_metadata(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        from_gguf(small(**changes))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(small())), json_values)
def test_any_metadata_is_read_or_refused(key: str, value: Any) -> None:
    metadata = {**small(), key: value}
    try:
        tokenizer = from_gguf(metadata)
    except AlpageError:
        return
    tokenizer.decode(tokenizer.encode("abc <|im_end|>", special=True))


def document(**changes: Any) -> dict[str, Any]:
    """A tiny `tokenizer.json`; dotted names reach into objects, ... removes."""
    vocab = {char: i for i, char in enumerate(BYTE_TO_CHAR)} | {"ab": 256, "abc": 257}
    found: dict[str, Any] = {
        "added_tokens": [{"id": 258, "content": "<|im_end|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": None,
        "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], "ab c"]},
    }
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = found
        for parent in parents:
            place = place[parent]
        place[last] = value
    return found


def write(path: Path, content: Any) -> Path:
    file = path / "tokenizer.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_small_tokenizer_json(tmp_path: Path) -> None:
    ours = from_tokenizer_json(write(tmp_path, document()))
    assert ours.encode("abcab<|im_end|>", special=True) == [257, 256, 258]
    assert (ours.bos_id, ours.eos_id, ours.add_bos) == (None, None, False)
    assert ours.stop_ids == {258}
    begin = {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [begin, {"Sequence": {"id": "A"}}]}
    processors = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}
    ours = from_tokenizer_json(write(tmp_path, document(post_processor=processors)))
    assert (ours.bos_id, ours.add_bos) == (258, True)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "eos_token": "ab"}')
    ours = from_tokenizer_json(write(tmp_path, document(post_processor=processors)))
    assert (ours.bos_id, ours.eos_id, ours.add_bos) == (258, 256, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not valid JSON"),
        ('{"model": ', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "must be a JSON object, not list"),
        ("{}", "model must be a JSON object, not NoneType"),
        (document(model__vocab=[]), "model.vocab must be a JSON object, not list"),
        (document(model__vocab={"a": "0"}), "token 'a' has the id '0'"),
        (document(model__vocab={"a": -1}), "token 'a' has the id -1"),
        (document(model__vocab={"a": 1 << 40}), "token 'a' has the id 1099511627776"),
        (document(model__vocab={"a": 4_000_000}), "2 tokens use ids up to 4000000"),
        (document(model__vocab={"a": 0, "b": 0}), "tokens 'a' and 'b' share the id 0"),
        (document(model__merges={}), "model.merges must be an array, not dict"),
        (document(model__merges=[["a"]]), r"model.merges\[0\] must be two pieces"),
        (document(model__merges=["a z z"]), r"model.merges\[0\] must be two pieces"),
        (document(model__merges=[["a", "q"]]), "needs the piece 'aq'"),
        (document(added_tokens={}), None),
        (document(added_tokens={"a": 1}), "added_tokens must be an array"),
        (document(added_tokens=[3]), r"added_tokens\[0\] must be a JSON object"),
        (document(added_tokens=[{"id": 1}]), "needs a content and an id"),
        (document(added_tokens=[{"id": 1, "content": "ab"}]), "'ab' has the id 1"),
        (document(pre_tokenizer=None), "pre_tokenizer must be a JSON object"),
    ],
)
def test_damaged_tokenizer_json(tmp_path: Path, content: Any, message: str | None) -> None:
    path = write(tmp_path, content)
    if message is None:
        assert from_tokenizer_json(path).encode("ab") == [256]
        return
    with pytest.raises(FormatError, match=message):
        from_tokenizer_json(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__type": "Unigram"}, "'Unigram' is not supported; Alpage runs BPE"),
        ({"model__byte_fallback": True}, "decoder null is not supported"),
        ({"model__dropout": 0.1}, "dropout = 0.1"),
        ({"model__end_of_word_suffix": "</w>"}, "end_of_word_suffix = '</w>'"),
        ({"normalizer": {"type": "NFC"}}, "normalizer 'NFC' is not supported"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "decoder null is not supported"),
        ({"pre_tokenizer__add_prefix_space": True}, "is not supported"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}},
            r"\(a\+\)\+\$.* is not supported",
        ),
        ({"added_tokens": [{"id": 258, "content": "<m>", "lstrip": True}]}, "'<m>' sets lstrip"),
    ],
)  # fmt: skip
def test_unsupported_tokenizer_json(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        from_tokenizer_json(write(tmp_path, document(**changes)))


def test_configuration_that_names_no_token(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<gone>"}}')
    with pytest.raises(FormatError, match="eos_token is '<gone>', which is no token"):
        from_tokenizer_json(write(tmp_path, document()))


def ranks(*changes: tuple[int, bytes]) -> bytes:
    lines = [base64.b64encode(bytes([i])) + b" %d" % i for i in range(256)]
    for number, line in changes:
        lines[number - 1 :] = [line, *lines[number:]]
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", FormatError, "holds no token"),
        (ranks((3, b"Ag==")), FormatError, "line 3: expected a base64 token and a rank"),
        (ranks((3, b"Ag== two")), FormatError, "line 3: expected a base64 token and a rank"),
        (ranks((3, b"Ag== -2")), FormatError, "line 3: expected"),
        (ranks((3, b"Ag== 99999999999999999999")), FormatError, "line 3: expected"),
        (ranks((3, b"A!== 2")), FormatError, "line 3: b'A!==' is not base64"),
        (ranks((3, b"Ag== 7")), FormatError, "line 3: rank 7 where 2 is next"),
        (ranks((3, b"AQ== 2")), FormatError, "line 3: token b'.x01' is also on rank 1"),
        (ranks()[:1200], FormatError, "no token for the byte|expected a base64"),
        (base64.b64encode(b"a" * 2000) + b" 0", FormatError, "1 to 256 bytes, not 2000"),
        (b"\x00\xff\x80", FormatError, "line 1: expected"),
        (ranks(), UnsupportedError, "has 256 ranks; Alpage reads Llama 3's .* 128000"),
    ],
)
def test_damaged_tiktoken_file(
    tmp_path: Path, content: bytes, error: type[AlpageError], message: str
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        from_tiktoken(path)


@pytest.mark.parametrize("read", [from_tiktoken, from_tokenizer_json])
def test_missing_long_and_odd_files(tmp_path: Path, read: Any) -> None:
    with pytest.raises(NotFoundError, match=r"no such file: .*gone"):
        read(tmp_path / "gone")
    with pytest.raises(FormatError, match="is not a file"):
        read(tmp_path)
    long = tmp_path / "long"
    with long.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it whole would take all memory
    with pytest.raises(FormatError, match="it is longer than"):
        read(long)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text("ab", min_size=2, max_size=5), unique=True, max_size=12), st.data())
def test_recovered_merges_equal_tiktoken_for_any_ranks(pieces: list[str], data: Any) -> None:
    """Also for rank orders that no training would give, where one token has several splits."""
    import tiktoken
    from tokenizers import Tokenizer, models

    order = ["a", "b", *pieces]
    ranks = {piece.encode(): rank for rank, piece in enumerate(order)}
    ranks |= {bytes([b]): len(ranks) + i for i, b in enumerate(set(range(256)) - {97, 98})}
    judge = tiktoken.Encoding("any", pat_str=r"[ab]+", mergeable_ranks=ranks, special_tokens={})
    vocab = {piece: rank for rank, piece in enumerate(order)}
    ours = Tokenizer(models.BPE(vocab=vocab, merges=recover_merges(order), ignore_merges=True))
    for _ in range(5):
        text = data.draw(st.text("ab", min_size=1, max_size=40))
        assert ours.encode(text).ids == judge.encode_ordinary(text)
