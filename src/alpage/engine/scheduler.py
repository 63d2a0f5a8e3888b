"""Who runs next: many requests, one forward pass a step, pages given and taken back.

A state machine without threads or clocks: `Engine` drives it. First come, first served; a request
starts when the pages of its prompt are free. When answers outgrow the pool, the youngest request
gives its pages back and runs again later; its answer stays the same, because sampling depends on
the seed and the step alone.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import AlpageError, CapacityError, InputError, InternalError, UsageError
from alpage.engine.pages import PageAllocator, PageTable
from alpage.engine.protocol import (
    EmbedRequest,
    Event,
    FailEvent,
    FinishEvent,
    Request,
    Runner,
    StepBatch,
)
from alpage.engine.sampling import Sampler, sample_reference
from alpage.engine.sequence import Embedding, Generation, Sequence

Outcome = tuple[int, Event]
"""The number of a request, and what happened to it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one step may hold.

    `rows`: tokens of one forward pass. `scored`: rows whose logits a scored prompt may ask for
    (each costs four bytes per vocabulary entry). `running`: requests that run at the same time,
    at most `rows`, so that each of them advances in every step.
    """

    rows: int = 512
    scored: int = 128
    running: int = 256

    def __post_init__(self) -> None:
        if min(self.rows, self.scored, self.running) < 1 or self.running > self.rows:
            raise UsageError(
                "limits must be at least 1 and running at most rows, not "
                f"rows={self.rows}, scored={self.scored}, running={self.running}"
            )


class Scheduler:
    """Waiting and running requests of one runner. Not thread-safe, except for `check`.

    `context` (tokens) may be smaller than the model's own context length.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        context: int | None = None,
        limits: Limits | None = None,
        sampler: Sampler = sample_reference,
    ) -> None:
        self._runner = runner
        self._limits = limits or Limits()
        self._sampler = sampler
        self._pages = PageAllocator(runner.page_count)
        self._pool = runner.page_count * runner.page_size
        self.context = min(context or runner.config.context_length, runner.config.context_length)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # oldest first
        self.preemptions = 0

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._running or self._waiting)

    @property
    def free_pages(self) -> int:
        """Cache pages that no request holds."""
        return self._pages.free

    def check(self, request: Request | EmbedRequest) -> None:
        """Refuse what can never run: InputError, UsageError or CapacityError. Thread-safe."""
        prompt, vocabulary = np.asarray(request.prompt), self._runner.config.vocab_size
        if prompt.size == 0:
            raise InputError("the prompt is empty; give at least one token")
        if prompt.ndim != 1 or prompt.dtype.kind not in "iu":
            raise InputError("a prompt is one list of token ids, each a whole number")
        for token in (int(prompt.min()), int(prompt.max())):
            if not 0 <= token < vocabulary:
                raise InputError(
                    f"token id {token} is outside the vocabulary: ids go from 0 to {vocabulary - 1}"
                )
        if prompt.size > self.context:
            raise InputError(
                f"the prompt has {prompt.size} tokens, but the context holds {self.context}; "
                "shorten the prompt or load the model with a larger context"
            )
        if prompt.size > self._pool:
            raise CapacityError(
                f"the prompt has {prompt.size} tokens, but the cache holds {self._pool}; "
                "load the model with a larger cache"
            )
        if isinstance(request, Request):
            for token in request.sampling.logit_bias:
                if token >= vocabulary:
                    raise UsageError(
                        f"logit_bias names token id {token}; ids go from 0 to {vocabulary - 1}"
                    )

    def add(self, number: int, request: Request | EmbedRequest) -> None:
        """Queue a request under a `number` that no other request has."""
        self.check(request)
        table = PageTable(self._pages, self._runner.page_size)
        if isinstance(request, EmbedRequest):
            self._waiting.append(Embedding(number, request, table))
        else:
            limit = min(self.context, self._pool)
            self._waiting.append(Generation(number, request, table, limit, self._sampler))

    def cancel(self, number: int) -> list[Outcome]:
        """End a request now and free its pages; nothing happens if it has ended already."""
        for sequence in [*self._running, *self._waiting]:
            if sequence.number == number:
                self._remove(sequence)
                return [(number, sequence.finish("cancelled"))]
        return []

    def step(self) -> list[Outcome]:
        """Run one chunk of every request that has its turn; what happened to whom, in order."""
        self._reserve()
        self._admit()
        chunks = self._plan()
        embeddings = [c for c in chunks if isinstance(c[0], Embedding)]
        outcomes: list[Outcome] = []
        try:
            if len(embeddings) < len(chunks):
                generations = [c for c in chunks if isinstance(c[0], Generation)]
                outcomes += self._run(self._runner.forward, generations)
            if embeddings:
                outcomes += self._run(self._runner.hidden, embeddings)
        except Exception as error:  # whatever the runner raises ends its requests, not the engine
            outcomes += self._fail_running(error)
        return outcomes

    def _reserve(self) -> None:
        """A place for the newest token of everyone, the oldest first, at the youngest's cost."""
        index = 0
        while index < len(self._running):
            sequence = self._running[index]
            needed = len(sequence.window)
            if sequence.table.missing(needed) > self._pages.free:
                self._preempt(self._running[-1])
            else:
                if sequence.table.missing(needed):
                    sequence.table.grow(needed)
                index += 1

    def _preempt(self, sequence: Sequence) -> None:
        self._remove(sequence)
        self._waiting.appendleft(sequence)
        self.preemptions += 1

    def _admit(self) -> None:
        """Start waiting requests in order; one that does not fit yet holds back those behind."""
        while self._waiting and len(self._running) < self._limits.running:
            sequence = self._waiting[0]
            # One page to spare for everyone who runs: else the newcomer would push itself out
            # again as soon as an answer crosses into its next page.
            missing = sequence.table.missing(len(sequence.window))
            if self._running and missing + len(self._running) > self._pages.free:
                return
            sequence.table.grow(len(sequence.window))
            self._running.append(self._waiting.popleft())

    def _plan(self) -> list[tuple[Sequence, range]]:
        """Answers first, a row each; then prompts, the oldest first, with the rows left."""
        rows, scored = self._limits.rows, self._limits.scored
        chunks: list[tuple[Sequence, range]] = []
        for sequence in sorted(self._running, key=lambda s: s.pending > 1):
            chunk = sequence.chunk(rows, scored)
            if not chunk:
                continue
            chunks.append((sequence, chunk))
            rows -= len(chunk)
            scored -= len(sequence.scored(chunk))
        return chunks

    def _run(
        self,
        call: Callable[[StepBatch], NDArray[np.float32]],
        chunks: list[tuple[Sequence, range]],
    ) -> list[Outcome]:
        wanted = [sequence.outputs(chunk) for sequence, chunk in chunks]
        for sequence, _ in chunks:
            sequence.start_clock()
        results = call(_batch(chunks, wanted))
        outcomes: list[Outcome] = []
        first = 0
        for (sequence, chunk), places in zip(chunks, wanted, strict=True):
            own = results[first : first + len(places)]
            first += len(places)
            try:
                events = sequence.accept(chunk, own)
            except Exception as error:  # one request's fault never touches another
                events = [FailEvent(_as_own(error))]
            if events and isinstance(events[-1], FinishEvent | FailEvent):
                self._remove(sequence)
            outcomes += [(sequence.number, event) for event in events]
        return outcomes

    def _remove(self, sequence: Sequence) -> None:
        """Take a request out of its list, with its pages."""
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.evict()

    def _fail_running(self, error: Exception) -> list[Outcome]:
        failed = list(self._running)
        for sequence in failed:
            self._remove(sequence)
        return [(sequence.number, FailEvent(_as_own(error))) for sequence in failed]


def _batch(chunks: list[tuple[Sequence, range]], wanted: list[list[int]]) -> StepBatch:
    """One forward pass over `chunks`, with the results at the positions `wanted` of each."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    outputs: list[int] = []
    width = max(len(sequence.table.row) for sequence, _ in chunks)
    tables = np.full((len(chunks), width), -1, np.int32)
    for index, (sequence, chunk) in enumerate(chunks):
        shift = len(tokens) - chunk.start
        outputs += [place + shift for place in wanted[index]]
        tokens += sequence.window[chunk.start : chunk.stop]
        positions += chunk
        sequences += [index] * len(chunk)
        tables[index, : len(sequence.table.row)] = sequence.table.row
    return StepBatch(
        np.array(tokens, np.int32),
        np.array(positions, np.int32),
        np.array(sequences, np.int32),
        tables,
        np.array(outputs, np.int32),
    )


def _as_own(error: Exception) -> AlpageError:
    """A fresh error for each request: one object raised in several threads mixes tracebacks."""
    if isinstance(error, AlpageError):
        own = type(error)(*error.args)
    elif isinstance(error, MemoryError):
        own = CapacityError("not enough memory for a forward pass; use a smaller context or cache")
    else:
        own = InternalError(f"the engine failed in this step: {type(error).__name__}: {error}")
    own.__cause__ = error
    return own
