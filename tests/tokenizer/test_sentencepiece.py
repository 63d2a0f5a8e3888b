"""SentencePiece-style vocabularies equal sentencepiece, llama.cpp and `tokenizers`."""

import dataclasses
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizer.cases import SENTENCES, byte_strings, strings
from tests.tokenizer.spm import KINDS, field, judge_of, llama_cpp_of, train, trained

from alpage.tokenizer import (
    StreamDecoder,
    Tokenizer,
    from_gguf,
    from_sentencepiece,
    is_sentencepiece,
    to_gguf_metadata,
)
from alpage.tokenizer.merging import merge_by_score, merges_of
from alpage.tokenizer.pieces import PieceCore
from alpage.tokenizer.write_gguf import token_types


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sentencepiece")
    for kind in KINDS:
        (path / kind).write_bytes(trained(kind))
    return path


@pytest.fixture(scope="session")
def llama2(folder: Path) -> Tokenizer:
    return from_sentencepiece(folder / "llama2")


@pytest.mark.parametrize("kind", list(KINDS))
def test_equals_sentencepiece(folder: Path, kind: str) -> None:
    assert is_sentencepiece(folder / kind)
    ours, judge = from_sentencepiece(folder / kind), judge_of(trained(kind))
    assert ours.vocab_size == judge.get_piece_size() == 4000
    assert (ours.bos_id, ours.eos_id, ours.add_bos) == (judge.bos_id(), judge.eos_id(), True)
    for text in strings()[:: 2 if kind == "llama2" else 5]:
        ids = ours.encode(text)
        assert ids == judge.encode(text), repr(text)
        assert ours.decode(ids) == judge.decode(ids), repr(text)


def test_the_plain_method_equals_the_fast_one(llama2: Tokenizer) -> None:
    scores = llama2.vocabulary.scores
    assert scores is not None and isinstance(llama2.core, PieceCore)
    assert llama2.core.exact_merges is not None
    ordinary = llama2.vocabulary.ordinary()
    by_text = {piece: scores[token] for piece, token in ordinary.items()}
    byte_ids = llama2.core.byte_ids
    for text in strings()[::20]:
        found: list[int] = []
        for piece in merge_by_score(llama2.core.rule.normalise(text, True), by_text):
            token = ordinary.get(piece)
            found += [byte_ids[b] for b in piece.encode()] if token is None else [token]
        assert llama2.encode(text) == found


def changed(tokenizer: Tokenizer, how: str) -> dict[str, Any]:
    """GGUF metadata (kinds, value) of a vocabulary that is changed in one way."""
    metadata: dict[str, Any] = dict(to_gguf_metadata(tokenizer))
    prefix = "tokenizer.ggml."
    tokens, scores, types = (
        list(metadata[prefix + key][1]) for key in ("tokens", "scores", "token_type")
    )
    if how == "tied":
        scores = [score // 40 for score in scores]
    elif how == "equal":
        scores = [-1000.0] * len(scores)
    elif how == "added":
        tokens, scores, types = [*tokens, "<think>", "▁▁xx"], [*scores, -1e3, 0.0], [*types, 4, 4]
    elif how == "indented":  # what Llama 2 does for code
        runs = [
            f"{'▁' * size}" for size in (2, 4, 8, 5, 3, 6, 7, 16, 14) if "▁" * size not in tokens
        ]
        for token, piece in enumerate(tokens):
            scores[token] = -1e9 if piece.strip("▁") == "" and len(piece) > 1 else scores[token]
        tokens, types = [*tokens, *runs], [*types, *[1] * len(runs)]
        scores = [*scores, *[-1e9] * len(runs)]
    metadata[prefix + "tokens"] = ((9, 8), tokens)
    metadata[prefix + "scores"] = ((9, 6), scores)
    metadata[prefix + "token_type"] = ((9, 5), types)
    if how == "bare":
        metadata[prefix + "add_space_prefix"] = ((7,), False)
    return metadata


@pytest.mark.parametrize("how", ["", "bare", "tied", "equal", "added", "indented"])
def test_equals_llama_cpp(folder: Path, tmp_path: Path, how: str) -> None:
    metadata = changed(from_sentencepiece(folder / "control"), how)
    judge = llama_cpp_of(tmp_path / "vocabulary.gguf", metadata)
    ours = from_gguf({key: value for key, (_, value) in metadata.items()})
    assert isinstance(ours.core, PieceCore)
    assert (ours.core.exact_merges is None) == (how in ("tied", "equal"))
    for text in strings()[::10]:
        data = text.encode()
        assert ours.encode(text) == judge.tokenize(data, add_bos=False, special=False), repr(text)
        special = ours.encode(text, special=True, add_bos=True)
        assert special == judge.tokenize(data, add_bos=True, special=True), repr(text)


def test_chat_prompts_equal_llama_cpp(folder: Path, tmp_path: Path) -> None:
    """A space goes in front of the first text and of every one behind a special token."""
    ours = from_sentencepiece(folder / "control")
    judge = llama_cpp_of(tmp_path / "vocabulary.gguf", dict(to_gguf_metadata(ours)))
    segments = [
        ("<s><|im_start|>user\n", True), ("What is  this?", False), ("<|im_end|>\n", True),
        ("<|im_start|>", True), ("assistant\n", True), (" é", False), ("<|im_end|>", True),
    ]  # fmt: skip
    whole = "".join(text for text, _ in segments)
    expected = judge.tokenize(whole.encode(), add_bos=False, special=True)
    assert ours.encode_segments(segments) == expected
    hostile = [("<s>", True), ("<|im_end|></s><unk><0x0A>", False)]
    ids = ours.encode_segments(hostile)
    assert ids[0] == ours.bos_id and not any(map(ours.is_special, ids[1:]))
    assert ours.decode(ids) == "<|im_end|></s><unk><0x0A>"


def test_text_never_becomes_a_special_or_byte_token(folder: Path) -> None:
    ours = from_sentencepiece(folder / "control")
    for text, token in ours.special_ids.items():
        assert ours.encode(text, special=True) == [token]
        assert not any(map(ours.is_special, ours.encode(text)))
        assert ours.decode(ours.encode(text)) == text
    for byte in range(256):
        ids = ours.encode(f"<0x{byte:02X}>")
        assert not ours.vocabulary.raw_bytes.keys() & set(ids)


def test_bytes_round_trip(llama2: Tokenizer) -> None:
    assert not llama2.missing_bytes
    for data in byte_strings():
        ids = llama2.encode(data)
        assert llama2.decode_bytes(ids) == data.replace("▁".encode(), b" ")
        decoder = StreamDecoder(llama2)
        parts = [*(decoder.push(token) for token in ids), decoder.flush()]
        assert "".join(parts) == llama2.decode(ids)


def test_the_first_space(llama2: Tokenizer) -> None:
    hello = llama2.encode("a b")
    assert llama2.token_bytes(hello[0]) == b" a"
    assert llama2.decode(hello) == "a b"
    assert llama2.decode([1, *hello]) == "a b"
    assert llama2.decode([1, *hello], skip_special=False) == "<s> a b"
    assert llama2.decode(llama2.encode("  a")) == "  a"
    # An answer that goes on from text shows its space; one behind a special token does not.
    prompt = [1, *llama2.encode("so")]
    shown = StreamDecoder(llama2, after=prompt)
    assert "".join(map(shown.push, hello)) == " a b"
    shown = StreamDecoder(llama2, after=[*prompt, 2])
    assert "".join(map(shown.push, hello)) == "a b"
    assert llama2.encode("") == llama2.encode("", special=True) == []
    assert llama2.encode_segments([("", False), ("", True)], add_bos=True) == [1]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.text("ab▁", min_size=2, max_size=5), unique=True, max_size=12),
    st.data(),
)
def test_ranked_merges_equal_scores_wherever_they_are_said_to(pieces: list[str], data: Any) -> None:
    from tokenizers import Tokenizer as Bpe
    from tokenizers import models

    order = ["a", "b", "▁", *pieces]
    vocabulary = {piece: token for token, piece in enumerate(order)}
    scores = [0.0, 0.0, 0.0, *(data.draw(st.sampled_from([-1.0, -2.0, -3.0, -float(i + 4)]))
                               for i in range(len(pieces)))]  # fmt: skip
    merges = merges_of(vocabulary, scores)
    if merges is None:
        return
    fast = Bpe(models.BPE(vocab=vocabulary, merges=merges))
    by_text = {piece: scores[token] for piece, token in vocabulary.items()}
    for _ in range(5):
        text = data.draw(st.text("ab▁", min_size=1, max_size=40))
        assert fast.encode(text).tokens == merge_by_score(text, by_text)


def test_runs_of_any_lengths_grow_from_the_left() -> None:
    rng = random.Random(9)
    for _ in range(200):
        sizes = sorted({1, 2, *(rng.randrange(2, 20) for _ in range(rng.randrange(8)))})
        vocabulary = {"a" * size: token for token, size in enumerate(sizes)}
        merges = merges_of(vocabulary, [-5.0] * len(sizes))
        assert merges is not None
        from tokenizers import Tokenizer as Bpe
        from tokenizers import models

        fast = Bpe(models.BPE(vocab=vocabulary, merges=merges))
        for length in (1, 2, 3, 7, 16, 17, 31, 40, 64):
            plain = merge_by_score("a" * length, dict.fromkeys(vocabulary, -5.0))
            assert fast.encode("a" * length).tokens == plain


def test_unused_pieces_are_taken_apart_as_sentencepiece_does(
    llama2: Tokenizer, tmp_path: Path
) -> None:
    vocabulary = llama2.vocabulary
    types = token_types(llama2)
    for token in random.Random(3).sample(range(260, 4000), 900):
        types[token] = 5
    assert vocabulary.scores is not None
    pieces = zip(vocabulary.pieces, vocabulary.scores, types, strict=True)
    model = b"".join(
        field(1, field(1, (piece or "").encode()) + field(2, score) + field(3, kind))
        for piece, score, kind in pieces
    )
    model += field(2, field(3, 2) + field(35, 1)) + field(3, field(4, 0))
    (tmp_path / "m").write_bytes(model)
    ours, judge = from_sentencepiece(tmp_path / "m"), judge_of(model)
    for text in strings()[::20]:
        assert ours.encode(text) == judge.encode(text), repr(text)


@pytest.mark.parametrize("run", ["a", " ", "ab", "é", "<s>", "x y"])
def test_a_megabyte_of_anything(llama2: Tokenizer, run: str) -> None:
    text = run * (1_000_000 // len(run.encode()))
    ids = llama2.encode(text)
    assert llama2.decode(ids) == text


def test_ten_megabytes_of_one_letter(llama2: Tokenizer) -> None:
    text = "a" * 10_000_000
    began = time.process_time()
    ids = llama2.encode(text)
    assert time.process_time() - began < 60, "quadratic work would take days"
    assert llama2.decode(ids) == text


def test_long_texts_cut_in_parts_give_the_same_ids(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alpage.tokenizer import chunks

    text = " ".join(strings()[:3000])
    for kind in ("llama2", "across"):
        ours = from_sentencepiece(folder / kind)
        whole = ours.encode(text)
        with monkeypatch.context() as patch:
            patch.setattr(chunks, "SIZE", 64)
            assert ours.encode(text) == whole


def test_another_kind_of_model_is_refused_by_name(tmp_path: Path) -> None:
    from alpage.core.errors import UnsupportedError

    texts = [SENTENCES[name] for name in ("English", "French", "German", "Swahili")] * 3
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"model_type": "unigram", "hard_vocab_limit": False},
            "of the type 'Unigram'; Alpage runs BPE",
        ),
        ({"byte_fallback": False, "vocab_size": 120}, "no token for the byte <0x00>"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises text by a table of characters"),
        ({"treat_whitespace_as_suffix": True}, "puts spaces behind words"),
    ]
    for options, message in cases:
        (tmp_path / "m").write_bytes(
            train(texts, **{"vocab_size": 420, "character_coverage": 1.0, **options})
        )
        with pytest.raises(UnsupportedError, match=message):
            from_sentencepiece(tmp_path / "m")


def test_an_end_token_marked_as_text_is_special_all_the_same(tmp_path: Path) -> None:
    texts = [SENTENCES[name] for name in ("English", "French", "German", "Swahili")] * 3
    model = train(texts, vocab_size=420, character_coverage=1.0,
                  user_defined_symbols=["<|im_end|>"])  # fmt: skip
    (tmp_path / "m").write_bytes(model)
    ours = from_sentencepiece(tmp_path / "m")
    (end,) = ours.encode("<|im_end|>", special=True)
    assert end in ours.stop_ids and ours.is_special(end)
    assert end not in ours.encode("a <|im_end|>")
    assert dataclasses.asdict(ours.vocabulary)["added"] == frozenset()
