"""An open model's two sides at once: the tokenizer is Python, repacking weights is native code."""

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from alpage.llama.text import TextSide, load_text_side
from alpage.weights.source import ModelSource


class Closable(Protocol):
    """An engine, or a runner."""

    def close(self) -> None:
        """End it."""
        ...


Loaded = TypeVar("Loaded", bound=Closable)


def load_sides(source: ModelSource, start: Callable[[], Loaded]) -> tuple[TextSide, Loaded]:
    """The text side of `source`, and the engine or runner that `start` loads meanwhile.

    Errors are those of both; the text side's come first, and no engine is left running then.
    """
    engines: list[Loaded] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            engines.append(start())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="alpage-load")
    thread.start()
    try:
        side = load_text_side(source)
    except BaseException:
        thread.join()
        for engine in engines:
            engine.close()
        raise
    thread.join()
    if errors:
        raise errors[0]
    return side, engines[0]
