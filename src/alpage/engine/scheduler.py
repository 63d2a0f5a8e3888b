"""Who runs next: many requests, one forward pass a step, pages given and taken back.

A state machine without threads: `Engine` drives it. A policy orders the requests; one starts when
there are pages for its prompt, less those that an earlier request of its tenant has filled with
the same tokens. When answers outgrow the pool, the last request in order gives its pages back and
runs again later; its answer stays the same, because sampling depends on the seed and the step
alone.
"""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import AlpageError, CapacityError, InputError, InternalError, UsageError
from alpage.engine.adapters import Adapters
from alpage.engine.draft import DraftModel
from alpage.engine.pace import Pace
from alpage.engine.pages import Key, PageAllocator, PageTable, first_key
from alpage.engine.policy import Policy
from alpage.engine.protocol import (
    EmbedRequest,
    Event,
    FailEvent,
    FinishEvent,
    Request,
    Runner,
    StepBatch,
    TokenEvent,
)
from alpage.engine.sampling import Sampler, sample_reference
from alpage.engine.sequence import Embedding, Generation, Sequence
from alpage.engine.speculation import StepCost
from alpage.engine.spill import Spill
from alpage.engine.stats import Counters

_FEW_ROWS = 64
"""Steps of answers and drafts alone; beyond it a row costs as much as a prompt's."""

Outcome = tuple[int, Event]
"""The number of a request, and what happened to it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one step may hold.

    `rows`: tokens of one forward pass. `scored`: rows whose logits a scored prompt may ask for
    (each costs four bytes per vocabulary entry). `running`: requests that run at the same time,
    at most `rows`, so that each of them advances in every step. `inter_token`: the seconds
    between two tokens of an answer that 95 % of the steps should keep; chunks of prompts beside
    answers are as large as that allows (`Pace`).
    """

    rows: int = 512
    scored: int = 128
    running: int = 256
    inter_token: float = 0.05

    def __post_init__(self) -> None:
        if min(self.rows, self.scored, self.running) < 1 or self.running > self.rows:
            raise UsageError(
                "limits must be at least 1 and running at most rows, not "
                f"rows={self.rows}, scored={self.scored}, running={self.running}"
            )
        if not 0 < self.inter_token <= 3600:
            raise UsageError(
                f"the inter-token target must be above 0 seconds, not {self.inter_token}"
            )


class Scheduler:
    """Waiting and running requests of one runner. Not thread-safe, except for `check`.

    `context` (tokens) may be smaller than the model's own context length. `clock` gives seconds.
    `spill` keeps cached beginnings on disk: it is asked for pages that are not here, and gets
    those that are at `save`. `adapters` are those that requests can name. `draft` guesses ahead.
    `counters` may go on from those of an earlier scheduler.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        context: int | None = None,
        limits: Limits | None = None,
        policy: Policy | None = None,
        sampler: Sampler = sample_reference,
        clock: Callable[[], float] = time.perf_counter,
        spill: Spill | None = None,
        adapters: Adapters | None = None,
        draft: DraftModel | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._runner = runner
        self._drafts = draft
        self._adapters = adapters or Adapters(runner, 0)
        self._spill = spill
        self._limits = limits or Limits()
        self._policy = policy or Policy()
        self._sampler = sampler
        self._clock = clock
        self._pace = Pace(self._limits.inter_token, most=self._limits.rows)
        self._cost = StepCost()
        self._pages = PageAllocator(runner.page_count)
        self._pool = runner.page_count * runner.page_size
        self.context = min(context or runner.config.context_length, runner.config.context_length)
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._arrivals = 0
        self.counters = counters or Counters()

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._running or self._waiting)

    @property
    def free_pages(self) -> int:
        """Cache pages that no request holds."""
        return self._pages.free

    @property
    def waiting(self) -> int:
        """Requests that do not run, or not at the moment."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that take part in steps."""
        return len(self._running)

    @property
    def preemptions(self) -> int:
        """How often a request gave its pages back and had to wait again."""
        return self.counters.preemptions

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
        if request.adapter is not None:
            self._adapters.find(request.adapter)
        if request.timeout is not None and not request.timeout > 0:
            raise UsageError(f"timeout must be above 0 seconds, not {request.timeout}")
        if not 0 < request.weight < math.inf:
            raise UsageError(f"weight must be above 0 and finite, not {request.weight}")
        if isinstance(request, Request):
            for token in request.sampling.logit_bias:
                if token >= vocabulary:
                    raise UsageError(
                        f"logit_bias names token id {token}; ids go from 0 to {vocabulary - 1}"
                    )

    def add(self, number: int, request: Request | EmbedRequest) -> None:
        """Queue a request under a `number` that no other request has."""
        self.check(request)
        adapter = None if request.adapter is None else self._adapters.use(request.adapter)
        root = first_key(request.tenant, adapter.digest if adapter else "")
        table = PageTable(self._pages, self._runner.page_size, root)
        sequence: Sequence
        if isinstance(request, EmbedRequest):
            sequence = Embedding(number, request, table)
        else:
            limit = min(self.context, self._pool)
            sequence = Generation(number, request, table, limit, self._sampler)
        sequence.adapter = adapter
        sequence.arrival = self._arrivals
        self._arrivals += 1
        if request.timeout is not None:
            sequence.deadline = self._clock() + request.timeout
        if isinstance(request, Request) and request.constraint is not None:
            self.counters.constrained += 1
        self._policy.joined(sequence)
        self._waiting.append(sequence)

    def cancel(self, number: int) -> list[Outcome]:
        """End a request now and free its pages; nothing happens if it has ended already."""
        for sequence in [*self._running, *self._waiting]:
            if sequence.number == number:
                return [self._end(sequence, sequence.finish("cancelled"))]
        return []

    def step(self) -> list[Outcome]:
        """Run one chunk of every request that has its turn; what happened to whom, in order."""
        outcomes = self._expire()
        self._reserve()
        self._admit()
        self._draft()
        chunks = self._plan()
        embeddings = [c for c in chunks if isinstance(c[0], Embedding)]
        generations = [c for c in chunks if isinstance(c[0], Generation)]
        rows = sum(len(chunk) for _, chunk in chunks)
        answers = sum(len(chunk) for sequence, chunk in chunks if sequence.pending == 1)
        began = self._clock()
        try:
            if generations:
                outcomes += self._run(self._runner.forward, generations)
            if embeddings:
                outcomes += self._run(self._runner.hidden, embeddings)
        except Exception as error:  # whatever the runner raises ends its requests, not the engine
            outcomes += self._fail_running(error)
        self._learn(rows, answers, self._clock() - began)
        return outcomes

    def _learn(self, rows: int, answers: int, seconds: float) -> None:
        self.counters.rows += rows
        self.counters.step_seconds += seconds
        alone = self._cost.seconds(answers) if answers else None
        self._pace.observe(answers, rows - answers, seconds, alone or 0.0)
        if rows == answers and rows <= _FEW_ROWS:
            self._cost.observe(rows, seconds)

    def _expire(self) -> list[Outcome]:
        """End every request whose time is over."""
        jobs = [*self._running, *self._waiting]
        if all(job.deadline == math.inf for job in jobs):
            return []
        now = self._clock()
        late = [job for job in jobs if job.deadline <= now]
        return [self._end(job, job.finish("deadline")) for job in late]

    def _reserve(self) -> None:
        """A place for the newest token of everyone, the first at the last one's cost."""
        order = sorted(self._running, key=self._policy.rank)
        for sequence in list(order):
            if sequence.table.missing(len(sequence.window)) == 0:
                continue
            while order and sequence in order:
                if sequence.table.missing(len(sequence.window)) <= self._pages.free:
                    sequence.table.grow(len(sequence.window))
                    break
                self._preempt(order.pop())

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        sequence.evict()
        self._forget_draft(sequence)
        self._waiting.append(sequence)
        self.counters.preemptions += 1

    def _admit(self) -> None:
        """Start waiting requests in order; one that does not fit yet holds back those behind."""
        if (
            self._waiting
            and len(self._running) == self._limits.running
            and not self._policy.yielding
        ):
            return
        order = sorted(self._waiting, key=self._policy.rank)
        for sequence in order:
            keys = sequence.table.keys(sequence.window, sequence.reusable)
            pages = self._find(keys)
            if len(pages) < len(keys) and self._is_coming(keys[len(pages)], sequence):
                continue  # somebody is just running the same beginning: do not run it twice
            if not self._make_room(sequence, pages):
                return
            self._waiting.remove(sequence)
            if sequence.take_over(pages):
                self.counters.prompt_tokens += sequence.prompt_length
                self.counters.cached_tokens += sequence.taken_over
            sequence.table.grow(len(sequence.window))
            self._running.append(sequence)

    def _find(self, keys: list[Key]) -> list[int]:
        """Pages of the longest beginning of `keys`, from memory and then from disk."""
        pages = self._pages.find(keys)
        if self._spill is None or len(pages) == len(keys):
            return pages
        self._pages.share(pages)  # so that those to come do not take their place
        held = list(pages)
        for key in keys[len(pages) :]:
            content = self._spill.load(key) if self._pages.free else None
            if content is None:
                break
            (page,) = self._pages.take(1)
            self._runner.write_page(page, content)
            self._pages.publish(page, key)
            held.append(page)
        self._pages.release(held)
        return held

    def save(self) -> None:
        """Hand what the cache knows to the disk, the latest use first, as far as there is room."""
        if self._spill is None:
            return
        for key, page in self._pages.contents():
            if not self._spill.save(key, self._runner.read_page(page)):
                break
        self._spill.trim()

    def _is_coming(self, key: Key, sequence: Sequence) -> bool:
        """Whether a running prompt that goes before `sequence` is about to fill that page."""
        rank = self._policy.rank(sequence)
        return any(
            s.pending > 1 and self._policy.rank(s) < rank and s.table.will_publish(key)
            for s in self._running
        )

    def _make_room(self, sequence: Sequence, pages: list[int]) -> bool:
        """Whether `sequence` can start with `pages`, after those who yield to it gave way."""
        if self._fits(sequence, pages):
            return True
        yielding = [s for s in self._running if self._policy.yields(s, sequence)]
        if not self._fits(sequence, pages, without=yielding):
            return False
        for victim in sorted(yielding, key=self._policy.rank, reverse=True):
            self._preempt(victim)
            if self._fits(sequence, pages):
                return True
        return False

    def _fits(
        self, sequence: Sequence, pages: list[int], without: Collection[Sequence] = ()
    ) -> bool:
        others = len(self._running) - len(without)
        free = self._pages.free + sum(len(s.table.row) for s in without)
        taken = sequence.table.missing(len(sequence.window)) - len(pages)
        taken += self._pages.unheld(pages)
        if not others:
            return taken <= free
        # One page to spare for everyone who runs: else the newcomer would push itself out
        # again as soon as an answer crosses into its next page.
        return others < self._limits.running and taken + others <= free

    def _draft(self) -> None:
        """Guess further tokens of answers where that pays and takes no page from anybody.

        Not beside prompts: these have better use for the rows, and somebody waits for them.
        """
        answers = [s for s in self._running if s.pending == 1]
        rows, tokens = len(answers), float(len(answers))
        room = min(self._limits.rows, self._limits.scored, _FEW_ROWS) - rows
        if len(answers) < len(self._running):
            room = 0
        writing = self._writing(rows)
        for sequence in answers:
            held = len(sequence.table.row) * self._runner.page_size - len(sequence.window)
            spare = self._pages.free - len(self._running)
            most = min(room, held + max(0, spare) * self._runner.page_size)
            count, gain = sequence.propose(rows, tokens, self._cost, most, writing)
            if count:
                sequence.table.grow(len(sequence.window) + count)
                rows, tokens, room = rows + count, tokens + gain, room - count
        if self._drafts is None:
            return
        wishes = [(s, s.wish) for s in answers if isinstance(s, Generation) and s.wish is not None]
        self._drafts.write([wish for _, wish in wishes])
        for writer, wish in wishes:
            writer.take_draft(wish.found)

    def _writing(self, answers: int) -> float | None:
        """What the draft model takes for a token of one answer, as a share of a step."""
        if self._drafts is None or not answers:
            return None
        step, token = self._cost.seconds(answers), self._drafts.seconds
        return token / step / answers if token and step else 0.0

    def _plan(self) -> list[tuple[Sequence, range]]:
        """Answers first, a row each; then prompts in order, with the rows that are left.

        Where there are answers, prompts get a chunk of the size that the pace allows.
        """
        rows, scored = self._limits.rows, self._limits.scored
        chunks: list[tuple[Sequence, range]] = []
        answers = [s for s in self._running if s.pending == 1]
        prompts = [s for s in self._running if s.pending > 1]
        if answers:
            written = sum(s.length - s.cached for s in answers)
            rows = min(rows, written + self._pace.rows(written, len(self._waiting) + len(prompts)))
        for sequence in answers + sorted(prompts, key=self._policy.rank):
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
        self.counters.steps += 1
        outcomes: list[Outcome] = []
        first = 0
        for (sequence, chunk), places in zip(chunks, wanted, strict=True):
            own = results[first : first + len(places)]
            first += len(places)
            self._policy.served(sequence, len(chunk))
            events = self._accept(sequence, chunk, own)
            outcomes += [(sequence.number, event) for event in events]
            if events and isinstance(events[-1], FinishEvent | FailEvent):
                self._end(sequence, events[-1])
        return outcomes

    def _accept(
        self, sequence: Sequence, chunk: range, results: NDArray[np.float32]
    ) -> list[Event]:
        """What `sequence` makes of its results, counted."""
        drafted, accepted = sequence.drafted, sequence.accepted
        try:
            events = sequence.accept(chunk, results)
            sequence.table.publish(sequence.window, sequence.cached)
        except Exception as error:  # one request's fault never touches another
            return [FailEvent(_as_own(error))]
        counters = self.counters
        counters.completion_tokens += sum(isinstance(event, TokenEvent) for event in events)
        counters.drafted += sequence.drafted - drafted
        counters.accepted += sequence.accepted - accepted
        return events

    def _end(self, sequence: Sequence, event: Event) -> Outcome:
        """Take a request out of its list, with its pages."""
        (self._running if sequence in self._running else self._waiting).remove(sequence)
        sequence.evict()
        self._forget_draft(sequence)
        self._policy.left(sequence)
        if sequence.adapter is not None:
            self._adapters.leave(sequence.adapter)
        return (sequence.number, event)

    def _forget_draft(self, sequence: Sequence) -> None:
        if self._drafts is not None:
            self._drafts.forget(sequence.number)

    def _fail_running(self, error: Exception) -> list[Outcome]:
        return [self._end(s, FailEvent(_as_own(error))) for s in list(self._running)]


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
        tokens += sequence.tokens(chunk)
        positions += chunk
        sequences += [index] * len(chunk)
        tables[index, : len(sequence.table.row)] = sequence.table.row
    slots = [s.adapter.slot if s.adapter else -1 for s, _ in chunks]
    return StepBatch(
        np.array(tokens, np.int32),
        np.array(positions, np.int32),
        np.array(sequences, np.int32),
        tables,
        np.array(outputs, np.int32),
        np.array(slots, np.int32) if max(slots) >= 0 else None,
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
