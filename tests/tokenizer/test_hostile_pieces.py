"""Hostile SentencePiece-style files: one clear error each, in bounded time and memory."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizer.spm import field, trained

from alpage.core.errors import AlpageError, FormatError, NotFoundError, UnsupportedError
from alpage.tokenizer import (
    from_gguf,
    from_sentencepiece,
    from_tokenizer_json,
    is_sentencepiece,
    to_tokenizer_json,
)

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def small(**changes: Any) -> dict[str, Any]:
    """A tiny scored vocabulary of a GGUF file; keys without prefix, None removes one."""
    fields: dict[str, Any] = {
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", *BYTES, "ab", "▁ab", "▁", "a", "b"],
        "scores": [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0],
        "token_type": [2, 3, 3, *[6] * 256, 1, 1, 1, 1, 1],
    }
    fields.update(changes)
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items() if value is not None}


def test_small_vocabulary_and_the_defaults_of_llama_cpp() -> None:
    ours = from_gguf(small())
    assert ours.encode("abab\n") == [260, 259, 3 + 10]
    assert ours.decode([260, 259, 13]) == "abab\n"
    assert (ours.bos_id, ours.eos_id, ours.add_bos, ours.stop_ids) == (1, 2, True, frozenset({2}))
    assert from_gguf(small(add_space_prefix=False)).encode("ab") == [259]
    assert from_gguf(small(remove_extra_whitespaces=True)).encode("  ab  ab ") == [260, 260]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "tokenizer.ggml.scores is missing"),
        ({"token_type": None}, "tokenizer.ggml.token_type is missing"),
        ({"scores": [0.0] * 263}, "264 tokens, 263 scores"),
        ({"scores": [0.0] * 263 + [math.nan]}, r"scores\[263\] must be a finite number, not nan"),
        ({"scores": [-math.inf] + [0.0] * 263}, r"scores\[0\] must be a finite number, not -inf"),
        ({"scores": [0] * 264}, r"scores\[0\] must be of type float, not int"),
        ({"token_type": [1] * 3}, "264 tokens, 3 token types"),
        ({"token_type": [2, 3, 3, *[6] * 257, 1, 1, 1, 1]}, "token 259 'ab' is marked as a byte"),
        ({"add_space_prefix": 1}, "add_space_prefix must be of type bool"),
        ({"tokens": ["<unk>", "<s>", "</s>", *BYTES, "ab", "ab", "▁", "a", "b"]}, "twice"),
        ({"tokens": ["<unk>", "<s>", "</s>", *BYTES, "ab", "a" * 513, "▁", "a", "b"]},
         "token 260 has 513 characters; a SentencePiece vocabulary has at most 512"),
        ({"bos_token_id": 999}, "bos_token_id is 999, outside"),
    ],
)  # fmt: skip
def test_contradictory_metadata(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        from_gguf(small(**changes))


def test_unsupported_metadata() -> None:
    for changes, message in (
        ({"token_type": [2, 3, 3, 1, *[6] * 255, 1, 1, 1, 1, 1]}, "no token for the byte <0x00>"),
        ({"precompiled_charsmap": [1, 2]}, "precompiled_charsmap asks for a normalisation"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            from_gguf(small(**changes))
    with pytest.raises(FormatError, match=r"alpage\.tokenizer\.spaces must be a prefix"):
        from_gguf({**small(), "alpage.tokenizer.spaces": "always nowhere"})


def test_pieces_with_endless_splits_end_soon() -> None:
    runs = ["a" * size for size in range(2, 513)] + [
        "a" * size + "b" * rest for size in range(1, 80) for rest in range(2, 80)
    ]  # every split of every piece is a piece
    tokens = ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "b", *runs]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(runs) + 3)]
    scores = [-float(i) for i in range(len(tokens))]
    began = time.process_time()
    ours = from_gguf(small(tokens=tokens, scores=scores, token_type=types))
    assert ours.decode(ours.encode("aab" * 1000)) == "aab" * 1000
    tokens += ["b" * 400 + f"{i:05}" for i in range(11_000)]
    with pytest.raises(FormatError, match="characters together"):
        from_gguf(small(tokens=tokens, scores=[0.0] * len(tokens),
                        token_type=[*types, *[1] * 11_000]))  # fmt: skip
    assert time.process_time() - began < 20


def proto(*pieces: bytes, trainer: bytes = b"", normalizer: bytes = b"") -> bytes:
    """A model of the small vocabulary's pieces and `pieces`."""
    found = b"".join(
        field(1, field(1, text.encode()) + field(2, score) + field(3, kind))
        for text, score, kind in zip(
            *(small()[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type")),
            strict=True,
        )
    )
    found += b"".join(field(1, piece) for piece in pieces)
    return found + field(2, trainer or field(3, 2)) + field(3, normalizer or field(4, 0))


def test_small_model(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(proto() + field(99, b"later versions") + field(98, 7) + b"\xf9\x06" + bytes(8))
    assert is_sentencepiece(path)
    ours = from_sentencepiece(path)
    assert ours.encode("abab\n") == [260, 259, 13]
    assert (ours.bos_id, ours.eos_id, ours.add_bos) == (1, 2, True)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert not from_sentencepiece(path).add_bos


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", FormatError, "holds no piece"),
        (b"\n", FormatError, "an integer without an end"),
        (b"\n\xff\xff\xff\xff\x7fa", FormatError, "a field of 34359738367 bytes at 6"),
        (b"\xff" * 20, FormatError, "an integer without an end at byte 0"),
        (b"\x0b", FormatError, "wire type 3"),
        (proto()[:500], FormatError, "is no SentencePiece model|Unigram"),
        (proto(field(1, b"\xff")), FormatError, "the text of piece 264 is not UTF-8"),
        (proto(field(1, 5)), FormatError, "piece 264 has no text or no score"),
        (proto(field(1, b"x") + field(2, 5)), FormatError, "piece 264 has no text or no score"),
        (proto(field(1, b"x") + field(2, math.nan)), FormatError, "score of piece 264 is nan"),
        (proto(field(1, b"x") + field(3, 9)), FormatError, "piece 264 has the type 9"),
        (proto(field(1, b"x") * 99), FormatError, "more than 16 fields in one part"),
        (proto(field(1, b"ab")), FormatError, "token 264 'ab' is in the vocabulary twice"),
        (proto(field(1, b"x") + field(3, 6)), FormatError, "marked as a byte"),
        (proto() + field(4, b"") * 99, FormatError, "more than 16 parts that are no pieces"),
        (field(1, b"") * (1 << 20), FormatError, "more than 524288 fields"),
        (proto(trainer=field(3, 1)), UnsupportedError, "of the type 'Unigram'; Alpage runs BPE"),
        (proto(trainer=field(3, 77)), UnsupportedError, "of the type 77"),
        (proto(normalizer=field(2, b"abc")), UnsupportedError, "by a table of characters"),
        (proto(normalizer=field(5, 0)), UnsupportedError, "puts spaces behind words"),
    ],
)
def test_damaged_model(
    tmp_path: Path, content: bytes, error: type[AlpageError], message: str
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    began = time.process_time()
    with pytest.raises(error, match=message):
        from_sentencepiece(path)
    assert time.process_time() - began < 10


def test_files_of_the_other_kind(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    for content in (b"IQ== 0\nIg== 1\n", b"\nIQ== 0\n", b"", b"x"):
        path.write_bytes(content)
        assert not is_sentencepiece(path)
    with pytest.raises(AlpageError):
        is_sentencepiece(tmp_path)
    with pytest.raises(NotFoundError):
        from_sentencepiece(tmp_path / "gone")
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it whole would take all memory
    with pytest.raises(FormatError, match="it is longer than"):
        from_sentencepiece(path)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_is_read_or_refused(tmp_path_factory: Any, data: Any) -> None:
    content = bytearray(proto() if data.draw(st.booleans()) else trained("control")[:4000])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.mktemp("damaged") / "tokenizer.model"
    path.write_bytes(bytes(content))
    try:
        tokenizer = from_sentencepiece(path)
    except AlpageError:
        return
    tokenizer.decode(tokenizer.encode("ab <s> \n", special=True))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
SPACES = [f"tokenizer.ggml.{key}" for key in ("add_space_prefix", "remove_extra_whitespaces")]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([*sorted(small()), *SPACES, "alpage.tokenizer.spaces"]), json_values)
def test_any_metadata_is_read_or_refused(key: str, value: Any) -> None:
    try:
        tokenizer = from_gguf({**small(), key: value})
    except AlpageError:
        return
    tokenizer.decode(tokenizer.encode("ab <s> \n", special=True))


PLACES = ["normalizer", "pre_tokenizer", "decoder", "added_tokens", "model", "post_processor"]


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(PLACES), json_values, st.booleans())
def test_any_tokenizer_json_is_read_or_refused(
    tmp_path_factory: Any, place: str, value: Any, inside: bool
) -> None:
    document = to_tokenizer_json(from_gguf(small()))
    if inside and isinstance(document[place], dict):
        key = sorted(document[place])[0 if not isinstance(value, str) else -1]
        document[place] = {**document[place], key: value}
    else:
        document[place] = value
    path = tmp_path_factory.mktemp("json") / "tokenizer.json"
    path.write_text(json.dumps(document))
    try:
        tokenizer = from_tokenizer_json(path)
    except AlpageError:
        return
    tokenizer.decode(tokenizer.encode("ab <s> \n", special=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFKC"}}, "NFKC.* are not supported"),
        ({"normalizer": None}, "null, null.* are not supported"),
        ({"decoder": {"type": "ByteLevel"}}, "the decoder .*ByteLevel.* is not supported"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}, "are not supported"),
        ({"added_tokens": [{"id": 264, "content": "<x>", "normalized": True}]},
         "added token '<x>' is to be found in normalised text"),
    ],
)  # fmt: skip
def test_unsupported_tokenizer_json(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    document = {**to_tokenizer_json(from_gguf(small())), **changes}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(UnsupportedError, match=message):
        from_tokenizer_json(tmp_path / "tokenizer.json")


def test_merges_never_build_special_or_byte_tokens(tmp_path: Path) -> None:
    """Conversions of real models list such merges; plain text stays plain all the same."""
    document = to_tokenizer_json(from_gguf(small()))
    vocab = document["model"]["vocab"]
    vocab |= {"<": 264, "s": 265, ">": 266, "s>": 267}
    document["model"]["merges"] += [["s", ">"], ["<", "s>"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    ours = from_tokenizer_json(tmp_path / "tokenizer.json")
    assert ours.encode("<s>") == [261, 264, 267]
    assert ours.encode("<s>", special=True) == [1]
