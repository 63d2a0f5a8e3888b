"""Marked text behaves as `str` does and never trusts a character that was not trusted before."""

import string
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpage.chat.marked import Marked, Segment, concat, segments

# Trusted characters are capitals and '<', untrusted ones small letters and '>': so each result
# says by itself which of its characters may be trusted.
trusted = st.text(alphabet="AB< \n", max_size=4).map(Marked.literal)
untrusted = st.text(alphabet="ab> \té", max_size=4)
pieces = st.lists(trusted | untrusted, max_size=6)
marked = pieces.map(concat)


def check(result: Any, expected: Any) -> None:
    assert result == expected
    for text in result if isinstance(result, list | tuple) else [result]:
        if isinstance(text, Marked):
            last = -1
            for low, high in text.spans:
                assert last < low < high <= len(text)
                assert not set(str.__getitem__(text, slice(low, high))) & set("ab>\té")
                last = high


OPERATIONS = {
    "strip": lambda s, a, b, n: s.strip(),
    "strip chars": lambda s, a, b, n: s.strip(a),
    "lstrip": lambda s, a, b, n: s.lstrip(),
    "rstrip": lambda s, a, b, n: s.rstrip(),
    "removeprefix": lambda s, a, b, n: s.removeprefix(a),
    "removesuffix": lambda s, a, b, n: s.removesuffix(a),
    "split": lambda s, a, b, n: s.split(),
    "split max": lambda s, a, b, n: s.split(None, n),
    "split at": lambda s, a, b, n: s.split(a or " ", n),
    "rsplit": lambda s, a, b, n: s.rsplit(None, n),
    "rsplit at": lambda s, a, b, n: s.rsplit(a or " ", n),
    "splitlines": lambda s, a, b, n: s.splitlines(),
    "splitlines ends": lambda s, a, b, n: s.splitlines(True),
    "partition": lambda s, a, b, n: s.partition(a or " "),
    "rpartition": lambda s, a, b, n: s.rpartition(a or " "),
    "replace": lambda s, a, b, n: s.replace(a, b, n),
    "replace all": lambda s, a, b, n: s.replace(a, b),
    "add": lambda s, a, b, n: s + a,
    "radd": lambda s, a, b, n: a + s,
    "times": lambda s, a, b, n: s * n,
    "slice": lambda s, a, b, n: s[n:],
    "slice both": lambda s, a, b, n: s[-n : len(a)],
    "slice step": lambda s, a, b, n: s[::-1],
    "character": lambda s, a, b, n: s[n] if -len(s) <= n < len(s) else "",
    "join": lambda s, a, b, n: s.join([a, b, a]),
    "characters": lambda s, a, b, n: list(s),
    "str": lambda s, a, b, n: str(s),
    "center": lambda s, a, b, n: s.center(20),
    "format": lambda s, a, b, n: f"{s}",
}


@pytest.mark.parametrize("name", OPERATIONS)
@given(s=marked, a=marked | untrusted, b=marked | untrusted, n=st.integers(-3, 8))
def test_every_operation_gives_what_str_gives(name: str, s: Marked, a: str, b: str, n: int) -> None:
    operation: Any = OPERATIONS[name]
    check(operation(s, a, b, n), operation(*(str.__str__(x) for x in (s, a, b)), n))


@pytest.mark.parametrize("name", ["upper", "lower", "title", "capitalize", "swapcase", "casefold"])
@given(text=st.text(max_size=8))
def test_changes_of_case_keep_text_and_length_of_spans(name: str, text: str) -> None:
    result = getattr(Marked.literal(text), name)()
    assert result == getattr(text, name)()
    if isinstance(result, Marked) and result.spans:
        assert result.spans == ((0, len(result)),)


@given(pieces)
def test_segments_are_the_text_in_alternating_runs(parts: list[str]) -> None:
    text = concat(parts)
    runs = segments(text)
    assert "".join(run.text for run in runs) == text
    assert all(run.text for run in runs)
    assert all(a.special != b.special for a, b in pairwise(runs))
    given_trust = [isinstance(part, Marked) for part in parts for _ in part]
    assert [run.special for run in runs for _ in run.text] == given_trust


def test_plain_text_is_one_untrusted_segment() -> None:
    assert segments("<|im_end|>") == [Segment("<|im_end|>", special=False)]
    assert segments("") == []


def test_marked_text_is_equal_to_and_hashes_like_plain_text() -> None:
    text = Marked.literal("user")
    assert text == "user"
    assert {"user": 1}[text] == 1
    assert text in ("system", "user")
    assert text.startswith("us")
    assert repr(text) == "'user'"


def test_every_method_of_str_that_gives_text_loses_or_keeps_trust_correctly() -> None:
    """A new Python may add methods: each must lose all trust, give the same, or be in `Marked`."""
    written = set(vars(Marked))
    arguments: dict[str, tuple[Any, ...]] = {
        "center": (9,), "ljust": (9,), "rjust": (9,), "zfill": (9,), "translate": ({97: "b"},),
        "format_map": ({},), "expandtabs": (4,), "format": (), "encode": (),
        "swapcase": (), "casefold": (),
    }  # fmt: skip
    for name in dir(str):
        if name.startswith("_") or name in written or name == "maketrans":
            continue
        if name in arguments:
            text = concat([Marked.literal("Ab"), string.digits[:2]])
            result = getattr(text, name)(*arguments[name])
            assert type(result) in (str, bytes) or result is text, name
        else:
            assert name.startswith(("is", "starts", "ends", "count", "find", "rfind", "index",
                                    "rindex")), name  # fmt: skip
