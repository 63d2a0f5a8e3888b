"""Arrays of strings decoded together: the strings, or nothing; never other strings."""

import mmap
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpage.core.errors import FormatError
from alpage.weights.gguf import read_header
from alpage.weights.gguf_strings import SEPARATOR, decode_together, encode_together
from alpage.weights.gguf_write import ARRAY, STRING, write_gguf
from alpage.weights.mapped import MappedFile

BEFORE = b"\x07before"
USUAL = st.text(st.characters(exclude_characters="\0\x1e", exclude_categories=["Cs"]))


def packed(texts: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(text)) + text for text in texts)


def together(content: bytes, count: int, end: int | None = None) -> tuple[list[str], int] | None:
    """What `decode_together` gives for an array between other bytes."""
    with mmap.mmap(-1, max(len(BEFORE) + len(content), 1)) as data:
        data.write(BEFORE + content)
        return decode_together(data, len(BEFORE), count, len(data) if end is None else end)


def one_by_one(content: bytes, count: int) -> tuple[list[str], int] | None:
    """The plain way; None where it cannot be read."""
    found, at = [], 0
    for _ in range(count):
        length = int.from_bytes(content[at : at + 8], "little")
        text = content[at + 8 : at + 8 + length]
        if len(content) < at + 8 or len(text) < length:
            return None
        try:
            found.append(text.decode())
        except UnicodeDecodeError:
            return None
        at += 8 + length
    return found, at + len(BEFORE)


@settings(max_examples=200, deadline=None)
@given(st.lists(USUAL, min_size=1, max_size=80), st.binary(max_size=20))
def test_usual_strings(texts: list[str], after: bytes) -> None:
    raw = [text.encode() for text in texts]
    content = packed(raw) + after
    found = together(content, len(texts))
    assert found == (texts, len(BEFORE) + len(packed(raw)))


@pytest.mark.parametrize(
    "text", [b"a" * 256, b"\0", b"a\0b", bytes([SEPARATOR]), b"\xff", "\u00e9".encode()[:1]]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_unusual_strings_are_left_to_others(text: bytes, place: int) -> None:
    texts = [b"a", b"", "\u4e2d".encode()]
    texts[place] = text
    assert together(packed(texts), 3) is None
    # Two halves of a character in two strings are no character.
    assert together(packed([b"\xc3", b"\xa9"]), 2) is None


def test_nothing_beyond_the_end_is_read() -> None:
    content = packed([b"abc"] * 5)
    whole = len(BEFORE) + len(content)
    assert together(content, 5, whole) == (["abc"] * 5, whole)
    assert together(content, 5, whole - 1) is None
    for cut in range(len(content)):
        assert together(content[:cut], 5) is None


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.binary(max_size=4) | st.just(b"\0" * 7), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from([0, 1, 2, 8, 30, 255])), max_size=5),
    st.integers(-2, 2),
)
def test_damage_never_gives_other_strings(
    texts: list[bytes], changes: list[tuple[int, int]], more: int
) -> None:
    content = bytearray(packed(texts))
    for at, value in changes:
        content[at % len(content)] = value
    count = max(len(texts) + more, 1)
    assert together(bytes(content), count) in (None, one_by_one(bytes(content), count))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text() | st.just("\x1e") | st.text(min_size=250), max_size=40))
def test_written_strings(texts: list[str]) -> None:
    odd = not texts or any("\x1e" in text for text in texts)
    assert encode_together(texts) == (None if odd else packed([text.encode() for text in texts]))


@pytest.mark.parametrize("odd", ["x" * 300, "\0", "\x1e"])
def test_an_array_with_one_odd_string_is_read_all_the_same(tmp_path: Path, odd: str) -> None:
    texts = [*map(str, range(500)), odd, *map(str, range(500))]
    path = tmp_path / "strings.gguf"
    with path.open("wb") as file:
        write_gguf(file, {"texts": ((ARRAY, STRING), texts)}, [])
    assert read_header(MappedFile(path)).metadata == {"texts": texts}


def test_what_is_wrong_in_a_long_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "strings.gguf"
    with path.open("wb") as file:
        write_gguf(file, {"texts": ((ARRAY, STRING), ["abcdefgh"] * 1000)}, [])
    good = path.read_bytes()
    at = good.rindex(b"abcdefgh")
    path.write_bytes(good[:at] + b"\xff" + good[at + 1 :])
    with pytest.raises(FormatError, match="a text in 'texts' is not UTF-8"):
        read_header(MappedFile(path))
    path.write_bytes(good[: at - 1] + b"\x01" + good[at:])
    with pytest.raises(FormatError, match="a text in 'texts' is 72,057,594,037,927,944 bytes long"):
        read_header(MappedFile(path))
    path.write_bytes(good[: at + 3])
    with pytest.raises(FormatError, match="is truncated"):
        read_header(MappedFile(path))
