"""Streamed text equals the whole, and never shows half a character."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tokenizer.cases import byte_strings, strings

from alpage.core.errors import InputError
from alpage.tokenizer import StreamDecoder, Tokenizer


def stream(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool = True) -> list[str]:
    decoder = StreamDecoder(tokenizer, skip_special=skip_special)
    return [*(decoder.push(token) for token in ids), decoder.flush()]


def test_characters_come_whole(smollm: Tokenizer) -> None:
    text = "🧑‍🚀 hé 中"
    ids = smollm.encode(text)
    assert len(ids) > len(text), "the test needs characters of several tokens"
    parts = stream(smollm, ids)
    assert "".join(parts) == text
    assert "\ufffd" not in "".join(parts)
    assert parts[0] == "" and parts[-1] == ""


def test_an_unfinished_character_is_replaced_at_the_end(llama3: Tokenizer) -> None:
    decoder = StreamDecoder(llama3)
    ids = llama3.encode(b"a\xf0\x9f\x98")
    assert [decoder.push(token) for token in ids] == ["a", "", "", ""]
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""
    assert decoder.push(ids[0]) == "a", "a flushed decoder starts again"


def test_broken_bytes_are_replaced_as_soon_as_they_are_certain(llama3: Tokenizer) -> None:
    assert stream(llama3, llama3.encode(b"\xe4b")) == ["", "\ufffdb", ""]
    assert stream(llama3, llama3.encode(b"\xffb")) == ["\ufffd", "b", ""]


def test_special_tokens_are_skipped_or_kept(llama3: Tokenizer) -> None:
    ids = llama3.encode("Hi<|eot_id|>é", special=True)
    assert "".join(stream(llama3, ids)) == "Hié"
    assert "".join(stream(llama3, ids, skip_special=False)) == "Hi<|eot_id|>é"
    # A skipped token in the middle of a character does not break it.
    first, second = llama3.encode(b"\xc3")[0], llama3.encode(b"\xa9")[0]
    assert "".join(stream(llama3, [first, 128_009, second])) == "é"


def test_foreign_ids_are_refused(smollm: Tokenizer) -> None:
    with pytest.raises(InputError, match="token id 49152 is outside"):
        StreamDecoder(smollm).push(49_152)


def test_equals_the_whole_on_all_cases(smollm: Tokenizer, llama3: Tokenizer) -> None:
    cases: list[str | bytes] = [*strings()[::3], *byte_strings()]
    for tokenizer in (smollm, llama3):
        for data in cases:
            ids = tokenizer.encode(data)
            parts = stream(tokenizer, ids)
            assert "".join(parts) == tokenizer.decode(ids)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)
@given(ids=st.lists(st.integers(0, 255) | st.integers(0, 49_151)), keep=st.booleans())
def test_equals_the_whole_for_any_ids(
    smollm: Tokenizer, llama3: Tokenizer, ids: list[int], keep: bool
) -> None:
    for tokenizer in (smollm, llama3):
        parts = stream(tokenizer, ids, skip_special=not keep)
        assert "".join(parts) == tokenizer.decode(ids, skip_special=not keep)
