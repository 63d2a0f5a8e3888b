"""A smaller model that writes ahead what the larger one then checks ("speculative decoding").

Leviathan et al. 2023 (arXiv:2211.17192). The draft is greedy and carries no probabilities; the
larger model samples each row as it would alone and takes the draft's tokens as far as they are the
same, so no answer changes by a token, greedy or sampled (see `engine/speculation.py`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from alpage.engine.pages import PageAllocator, PageTable, first_key
from alpage.engine.protocol import Runner, StepBatch

_CATCH_UP = 256
"""Rows of a text that one step may run before drafts are written: more would make others wait."""
_FADING = 0.9


@dataclass(slots=True)
class _Text:
    """What the small model has run of one request's text."""

    table: PageTable
    tokens: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Wish:
    """A draft of `count` tokens behind `text`, for the request `number`."""

    number: int
    text: Sequence[int]
    count: int
    found: list[int] = field(default_factory=list)


class DraftModel:
    """Drafts of many requests in one batch. The engine's thread alone uses it.

    `runner` has the vocabulary of the larger model: `vocab_size` ids, perhaps more logits. A
    request whose text does not fit into the runner's pages gets no drafts.
    """

    def __init__(
        self,
        runner: Runner,
        vocab_size: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner = runner
        self._vocab_size = vocab_size
        self._clock = clock
        self.seconds: float | None = None
        """What one more token for everyone takes, of late; None before the first draft."""
        self._begin()

    def _begin(self) -> None:
        self._pages = PageAllocator(self._runner.page_count)
        self._texts: dict[int, _Text] = {}

    @property
    def free_pages(self) -> int:
        """Pages of the small model's cache that no text holds."""
        return self._pages.free

    def reset(self) -> None:
        """Forget every text."""
        self._begin()

    def forget(self, number: int) -> None:
        """The request has ended or given its place away."""
        text = self._texts.pop(number, None)
        if text is not None:
            text.table.shrink(0)

    def close(self) -> None:
        """Release the runner."""
        self._runner.close()

    def write(self, wishes: Sequence[Wish]) -> None:
        """Fill `found` of each wish: `count` tokens, or fewer where the text has to be run first.

        A text that is far behind catches up a part of it in each call.
        """
        left, ready, rows = _CATCH_UP, list[Wish](), list[range]()
        for wish in wishes:
            known = self._know(wish)
            if known is None or left == 0:
                continue
            behind = range(len(known.tokens), len(wish.text))
            chunk = behind[:left]
            left -= len(chunk)
            ready.append(wish)
            rows.append(chunk)
        if not ready:
            return
        guesses = self._run(
            ready, [list(w.text[r.start : r.stop]) for w, r in zip(ready, rows, strict=True)]
        )
        going = []
        for wish, guess, chunk in zip(ready, guesses, rows, strict=True):
            if chunk.stop == len(wish.text):
                wish.found.append(guess)
                going.append(wish)
        began, steps = self._clock(), 0
        while going := [wish for wish in going if len(wish.found) < wish.count]:
            guesses = self._run(going, [wish.found[-1:] for wish in going])
            for wish, guess in zip(going, guesses, strict=True):
                wish.found.append(guess)
            steps += 1
        if steps:
            taken = (self._clock() - began) / steps
            old = taken if self.seconds is None else self.seconds
            self.seconds = _FADING * old + (1 - _FADING) * taken

    def _know(self, wish: Wish) -> _Text | None:
        """What of the wish's text has run and stays, with pages for all of it; None: no room."""
        known = self._texts.get(wish.number)
        if known is None:
            table = PageTable(self._pages, self._runner.page_size, first_key("draft"))
            known = self._texts[wish.number] = _Text(table)
        agreed = min(_common(known.tokens, wish.text), len(wish.text) - 1)  # one row at least runs
        del known.tokens[agreed:]
        positions = len(wish.text) + wish.count
        if positions > self._runner.config.context_length:
            return None
        if known.table.missing(positions) > self._pages.free:
            return None
        known.table.grow(positions)
        return known

    def _run(self, wishes: Sequence[Wish], parts: Sequence[list[int]]) -> list[int]:
        """Run the next tokens of each text; what the model would say behind them."""
        texts = [self._texts[wish.number] for wish in wishes]
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[int] = []
        tables = np.full((len(texts), max(len(t.table.row) for t in texts)), -1, np.int32)
        for index, (text, part) in enumerate(zip(texts, parts, strict=True)):
            start = len(text.tokens)
            tokens += part
            positions += range(start, start + len(part))
            sequences += [index] * len(part)
            outputs.append(len(tokens) - 1)
            tables[index, : len(text.table.row)] = text.table.row
            text.tokens += part
        logits = self._runner.forward(
            StepBatch(
                np.array(tokens, np.int32),
                np.array(positions, np.int32),
                np.array(sequences, np.int32),
                tables,
                np.array(outputs, np.int32),
            )
        )
        return [int(token) for token in logits[:, : self._vocab_size].argmax(axis=1)]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest beginning that both have."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
