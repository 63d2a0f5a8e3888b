import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpage.chat import StopStrings
from alpage.core.errors import UsageError


def whole_text_cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition, slow and plain: shortest beginning of the text that ends in a stop string."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


def stream(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    cutter = StopStrings(stops)
    out = []
    for piece in pieces:
        emitted, stopped = cutter.push(piece)
        out.append(emitted)
        if stopped:
            return "".join(out), True
    out.append(cutter.flush())
    return "".join(out), False


letters = st.text(alphabet="ab<é", max_size=6)


@given(st.lists(letters, max_size=8), st.lists(letters.filter(bool), min_size=1, max_size=4))
def test_any_division_of_the_text_gives_the_whole_text_cut(
    pieces: list[str], stops: list[str]
) -> None:
    assert stream(pieces, stops) == whole_text_cut("".join(pieces), stops)


@given(st.lists(letters, max_size=8), st.lists(letters.filter(bool), min_size=1, max_size=4))
def test_nothing_is_shown_that_may_begin_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    cutter = StopStrings(stops)
    seen = shown = ""
    for piece in pieces:
        emitted, stopped = cutter.push(piece)
        seen += piece
        shown += emitted
        if stopped:
            break
        for stop in stops:
            for size in range(1, len(stop)):
                if seen.endswith(stop[:size]):
                    assert len(shown) <= len(seen) - size


def test_a_held_beginning_comes_out_when_it_is_no_stop_string() -> None:
    cutter = StopStrings(["<|im_end|>"])
    assert cutter.push("one <|im_") == ("one ", False)
    assert cutter.push("start") == ("<|im_start", False)
    assert cutter.push("<|") == ("", False)
    assert cutter.flush() == "<|"


def test_after_a_stop_nothing_more_comes_out() -> None:
    cutter = StopStrings("###")
    assert cutter.push("a###b") == ("a", True)
    assert cutter.stopped == "###"
    assert cutter.push("more") == ("", True)
    assert cutter.flush() == ""


def test_without_stop_strings_everything_passes() -> None:
    assert StopStrings(None).push("text") == ("text", False)


def test_a_megabyte_of_near_misses_in_small_pieces() -> None:
    cutter = StopStrings(["a" * 511 + "b"])
    total = sum(len(cutter.push("aaaa")[0]) for _ in range(250_000))
    assert total + len(cutter.flush()) == 1_000_000


@pytest.mark.parametrize(
    ("stops", "message"),
    [
        ([""], "a stop string must not be empty"),
        (["ok", ""], "a stop string must not be empty"),
        ([3], "a stop string must be text, not int"),
        (["x" * 513], "a stop string has 513 characters; at most 512 are allowed"),
        ([str(i) for i in range(17)], "17 stop strings were given; at most 16 are allowed"),
    ],
)
def test_refused(stops: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StopStrings(stops)
