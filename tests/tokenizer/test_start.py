"""The first texts are merged without the library: to the same ids, and only the first ones."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizer.cases import strings
from tests.tokenizer.test_files import small

from alpage.tokenizer import Tokenizer, bytelevel_core, from_gguf
from alpage.tokenizer.bytelevel import BYTE_TO_CHAR, piece_of
from alpage.tokenizer.bytelevel_core import ByteLevelCore
from alpage.tokenizer.pretokenize import KNOWN
from alpage.tokenizer.vocabulary import MergeLines

ALPHABET = "abc d\n\u00e9\u4e2d1"


def core_of(tokenizer: Tokenizer) -> ByteLevelCore:
    assert isinstance(tokenizer.core, ByteLevelCore)
    return tokenizer.core


def both_ways(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Ids of a text merged as one piece: plainly, and by the library."""
    core, piece = core_of(tokenizer), piece_of(text.encode())
    return core.merge_plainly(piece), core.merge(piece)


@pytest.fixture(scope="module")
def fresh(metadata: dict[str, Any]) -> Tokenizer:
    """A tokenizer that has not started the library; tests that start it make their own."""
    return from_gguf(metadata)


@pytest.mark.parametrize(("pre", "count"), [("smollm", 3_000), *((n, 500) for n in KNOWN)])
def test_every_text_has_the_same_ids_without_the_library(
    metadata: dict[str, Any], monkeypatch: pytest.MonkeyPatch, pre: str, count: int
) -> None:
    metadata = {**metadata, "tokenizer.ggml.pre": pre}
    monkeypatch.setattr(bytelevel_core, "_PLAIN_CHARACTERS", 1 << 40)
    plain = from_gguf(metadata)
    monkeypatch.setattr(bytelevel_core, "_PLAIN_CHARACTERS", -1)
    library = from_gguf(metadata)
    for text in strings()[:count]:
        assert plain.encode(text) == library.encode(text), repr(text)
    assert core_of(plain)._started is None
    assert core_of(library)._started is not None


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.text(ALPHABET))
def test_any_piece_has_the_same_ids(fresh: Tokenizer, text: str) -> None:
    plain, library = both_ways(fresh, text)
    assert plain == library


@settings(max_examples=300, deadline=None)
@given(text=st.text(ALPHABET), pre=st.sampled_from(["gpt-2", "llama-bpe"]), data=st.data())
def test_any_merges_give_the_same_ids(text: str, pre: str, data: st.DataObject) -> None:
    """Vocabularies that no training would give: bytes missing, pieces built in several ways."""
    pieces = data.draw(st.lists(st.text("abcd", min_size=2, max_size=5), unique=True))
    missing = data.draw(st.sets(st.sampled_from(["b", BYTE_TO_CHAR[0xC3], BYTE_TO_CHAR[10]])))
    tokens = [*(char for char in BYTE_TO_CHAR if char not in missing), *pieces]
    lines = [
        f"{piece[:cut]} {piece[cut:]}"
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in tokens and piece[cut:] in tokens
    ]
    merges = data.draw(st.permutations(lines))
    tokenizer = from_gguf(
        small(pre=pre, tokens=tokens, merges=merges, token_type=[1] * len(tokens),
              bos_token_id=None, eos_token_id=None)
    )  # fmt: skip
    plain, library = both_ways(tokenizer, text)
    assert plain == library


def test_the_library_starts_when_there_is_much_to_merge(metadata: dict[str, Any]) -> None:
    tokenizer = from_gguf(metadata)
    core, text = core_of(tokenizer), "How long is the road over the pass? " * 100
    first = tokenizer.encode(text)
    assert core._started is None
    assert [tokenizer.encode(text) for _ in range(3)] == [first] * 3
    assert core._started is not None
    at_once = from_gguf(metadata)
    assert at_once.encode(text * 3)[: len(first) - 1] == first[:-1]
    assert core_of(at_once)._started is not None


def test_lines_are_a_list_of_pairs() -> None:
    lines = MergeLines(["a b", "ab c", "\n d"])
    pairs = [("a", "b"), ("ab", "c"), ("\n", "d")]
    assert list(lines) == pairs and lines == pairs and pairs == lines
    assert lines[1] == pairs[1] and lines[1:] == pairs[1:] and len(lines) == 3
    assert lines.wholes() == ["ab", "abc", "\nd"]
    assert lines != pairs[:2] and lines != 3
    nothing = MergeLines([])
    assert list(nothing) == [] == nothing.wholes() == nothing.parts()
