"""Loading both sides at once: whatever fails, nothing is left running."""

import threading
from pathlib import Path

import pytest

from alpage.core.errors import CapacityError, FormatError
from alpage.llama.load import load_sides
from alpage.llama.text import TextSide, load_text_side
from alpage.weights.source import ModelSource, open_model


class Engine:
    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def source(smollm2_path: Path) -> ModelSource:
    return open_model(smollm2_path)


def test_both_sides_load_at_the_same_time(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the other to have begun: one after the other, they would wait for ever."""
    text, engine, made = threading.Event(), threading.Event(), Engine()

    def load_text(source: ModelSource) -> TextSide:
        text.set()
        assert engine.wait(30)
        return load_text_side(source)

    def start() -> Engine:
        engine.set()
        assert text.wait(30)
        return made

    monkeypatch.setattr("alpage.llama.load.load_text_side", load_text)
    side, running = load_sides(source, start)
    assert side.tokenizer.vocab_size and running is made and not made.closed


def test_no_engine_is_left_without_its_text_side(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Engine()

    def fail(_: ModelSource) -> TextSide:
        raise FormatError("no tokenizer")

    monkeypatch.setattr("alpage.llama.load.load_text_side", fail)
    with pytest.raises(FormatError, match="no tokenizer"):
        load_sides(source, lambda: made)
    assert made.closed


def test_the_engines_error_is_raised_here(source: ModelSource) -> None:
    def fail() -> Engine:
        raise CapacityError("no memory")

    with pytest.raises(CapacityError, match="no memory"):
        load_sides(source, fail)
    assert "alpage-load" not in {thread.name for thread in threading.enumerate()}
