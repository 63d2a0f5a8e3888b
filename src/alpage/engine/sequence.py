"""One request on its way through the scheduler: which rows it wants, what it makes of them."""

import math
import time
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from alpage.core.types import FinishReason, Usage
from alpage.engine.adapters import Loaded
from alpage.engine.draft import Wish
from alpage.engine.guide import Guide
from alpage.engine.pages import PageTable
from alpage.engine.protocol import (
    EmbeddingEvent,
    EmbedRequest,
    Event,
    FinishEvent,
    PromptEvent,
    Request,
    TokenEvent,
    Top,
)
from alpage.engine.sampling import Sampler, SamplingState, damaged, score_rows
from alpage.engine.speculation import NgramLookup, StepCost, Trust, draft_length

_SINK_TOKENS = 4
_UNLIMITED = 1 << 62


class Sequence(ABC):
    """Tokens with their cache. Positions 0 to `cached - 1` of `window` have run.

    `window` is what the model sees: the prompt and the answer, or what a shift left of them.
    """

    def __init__(self, number: int, request: Request | EmbedRequest, table: PageTable) -> None:
        self.number = number
        self.prompt_length = len(request.prompt)
        self.window = list(request.prompt)
        self.cached = 0
        self.table = table
        self.tenant = request.tenant
        self.weight = request.weight
        self.priority = request.priority
        self.adapter: Loaded | None = None
        self.arrival = 0
        self.deadline = math.inf
        self.drafted = self.accepted = 0
        self._taken_over: int | None = None
        self._started: float | None = None

    @property
    def pending(self) -> int:
        """Tokens of the window that have not run yet; 1 while answering."""
        return len(self.window) - self.cached

    def start_clock(self) -> None:
        """The first row is about to run."""
        if self._started is None:
            self._started = time.perf_counter()

    @property
    def reusable(self) -> int:
        """Positions whose results nobody needs, so that others may have run them."""
        return 0

    @property
    def taken_over(self) -> int:
        """Tokens of the prompt that others had run when it began; 0 before."""
        return self._taken_over or 0

    def take_over(self, pages: list[int]) -> bool:
        """Begin with pages that others filled; whether it is the first time."""
        self.cached = self.table.adopt(pages)
        if self._taken_over is not None:
            return False
        self._taken_over = min(self.cached, self.prompt_length)
        return True

    def evict(self) -> None:
        """Give back every page; all that the window holds has to run again."""
        self.table.shrink(0)
        self.cached = 0

    def propose(
        self, rows: int, tokens: float, cost: StepCost, most: int, writing: float | None = None
    ) -> tuple[int, float]:
        """Draft what comes next, at most `most` tokens: rows and expected tokens it adds.

        `writing`: what one token of a draft model takes, as a share of a step; None without one.
        """
        return 0, 0.0

    @property
    def length(self) -> int:
        """Positions that the next step may fill: the window, and a draft behind it."""
        return len(self.window)

    def tokens(self, chunk: range) -> list[int]:
        """The ids at the positions of `chunk`."""
        return self.window[chunk.start : chunk.stop]

    def chunk(self, rows: int, outputs: int) -> range:
        """The positions to run next, at most `rows` of them with at most `outputs` scored."""
        return range(self.cached, self.cached + min(rows, self.pending))

    def scored(self, chunk: range) -> range:
        """The positions of `chunk` that `chunk` counts as scored; of most requests none."""
        return range(0)

    @abstractmethod
    def outputs(self, chunk: range) -> list[int]:
        """The positions of `chunk` whose result `accept` needs."""

    @abstractmethod
    def accept(self, chunk: range, results: NDArray[np.float32]) -> list[Event]:
        """Take the results [outputs, width] of `chunk`; the request ends with a FinishEvent."""

    def finish(self, reason: FinishReason, stop_token: int | None = None) -> FinishEvent:
        """The last event: why, and what the request used until now."""
        return FinishEvent(reason, self._usage(), stop_token)

    def _usage(self) -> Usage:
        began = self._started
        seconds = time.perf_counter() - began if began else 0.0
        return Usage(self.prompt_length, 0, seconds, cached_tokens=self.taken_over)


class Embedding(Sequence):
    """Mean of all states, scaled to length 1."""

    def __init__(self, number: int, request: EmbedRequest, table: PageTable) -> None:
        super().__init__(number, request, table)
        self._sum: NDArray[np.float64] = np.zeros(1)

    def evict(self) -> None:
        """Forget the states summed so far too: they come again."""
        super().evict()
        self._sum = np.zeros(1)

    def outputs(self, chunk: range) -> list[int]:
        """Every position counts."""
        return list(chunk)

    def accept(self, chunk: range, results: NDArray[np.float32]) -> list[Event]:
        """Add the states [rows, dim]; the vector comes with the last of them."""
        self.cached = chunk.stop
        self._sum = self._sum + results.sum(axis=0, dtype=np.float64)
        if self.pending:
            return []
        norm = np.linalg.norm(self._sum)
        if not np.isfinite(norm) or norm == 0:
            raise damaged()
        vector = self._sum / norm
        return [EmbeddingEvent(vector.astype(np.float32)), self.finish("stop")]


class Generation(Sequence):
    """A prompt that runs, is scored where wanted, and is answered token by token.

    `limit` is the number of positions that the context holds.
    """

    def __init__(
        self, number: int, request: Request, table: PageTable, limit: int, sampler: Sampler
    ) -> None:
        super().__init__(number, request, table)
        sampling = request.sampling
        self._answer = request.answer
        self._limit = limit
        self._state = SamplingState(sampling, self.window, sampler)
        self._stops = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            self._stops |= request.eos_ids
        self._max_tokens = sampling.max_tokens or _UNLIMITED
        self._shift = sampling.context_policy == "shift"
        self._top = sampling.top_logprobs or 0
        self._speculate = request.speculate and request.answer
        self._lookup: NgramLookup | None = None
        self._draft: list[int] = []
        self._wish: Wish | None = None
        self._trust = Trust()
        self._scored = 0 if request.prompt_logprobs else self.prompt_length - 1
        self._scoring = request.prompt_logprobs
        self._logprobs: list[float | None] = [None]
        self._tops: list[Top] = [()]
        self._first_token: float | None = None
        self._guide = Guide(request, self._stops) if request.constraint is not None else None

    @property
    def reusable(self) -> int:
        """All but the last one, and of a prompt that is scored what has been scored."""
        last = len(self.window) - 1
        return min(last, self._scored) if self._scoring else last

    def propose(
        self, rows: int, tokens: float, cost: StepCost, most: int, writing: float | None = None
    ) -> tuple[int, float]:
        """Look up what followed the newest tokens before, or wish for a draft of the model's.

        Whichever promises more, while it is often right.
        """
        self._draft, self._wish = [], None
        if not self._speculate or self._state.answered == 0:
            return 0, 0.0
        if self._lookup is None:
            self._lookup = NgramLookup(self._state.history.tolist())
        most = min(
            most, self._limit - len(self.window), self._max_tokens - self._state.answered - 1
        )
        chance = self._lookup.chance
        count = draft_length(chance, rows, tokens, cost, most)
        gain = _expected(chance, count)
        if writing is not None:
            hope = self._trust.chance
            wished = draft_length(hope, rows, tokens, cost, most, writing)
            if _expected(hope, wished) - wished * writing * tokens > gain:
                self._wish = Wish(self.number, self.window, wished)
                return wished, _expected(hope, wished)
            self._trust.rest()
        self._draft = self._lookup.draft(count)
        return count, gain

    @property
    def wish(self) -> Wish | None:
        """What a draft model shall write for the next step, as `propose` decided."""
        return self._wish

    def take_draft(self, draft: list[int]) -> None:
        """What the draft model has written, perhaps less than was wished for, runs along."""
        self._draft = draft

    @property
    def length(self) -> int:
        """The window and the draft."""
        return len(self.window) + len(self._draft)

    def tokens(self, chunk: range) -> list[int]:
        """The window's, then the draft's."""
        rest = chunk.stop - len(self.window)
        return super().tokens(chunk) + self._draft[: max(0, rest)]

    def evict(self) -> None:
        """Give up a draft, too."""
        super().evict()
        self._draft, self._wish = [], None

    def chunk(self, rows: int, outputs: int) -> range:
        """Rows of a scored prompt are bounded by the logits that they would make."""
        if self._draft:
            return range(self.cached, min(self.length, self.cached + rows))
        chunk = super().chunk(rows, outputs)
        start = max(chunk.start, self._scored)
        if start + outputs < self.prompt_length - 1:
            return range(chunk.start, min(chunk.stop, start + outputs))
        return chunk

    def scored(self, chunk: range) -> range:
        """Places not scored yet; place p predicts token p + 1, so the last one scores nothing."""
        return range(max(chunk.start, self._scored), min(chunk.stop, self.prompt_length - 1))

    def outputs(self, chunk: range) -> list[int]:
        """Places of the prompt to score, and the last token of all."""
        wanted = list(self.scored(chunk))
        if self._answer:  # the last token of all, and a draft's
            wanted += range(len(self.window) - 1, chunk.stop)
        return wanted

    def accept(self, chunk: range, results: NDArray[np.float32]) -> list[Event]:
        """Take the logits [outputs, vocab]: score the prompt, sample when all has run."""
        self.cached = chunk.stop
        events: list[Event] = []
        if self._scoring:
            events += self._score(self.scored(chunk), results)
        if self.pending > 0:
            return events
        if not self._answer:
            return [*events, self.finish("length")]
        draft, self._draft = self._draft[: chunk.stop - len(self.window)], []
        return events + self._sample_rows(results[len(results) - 1 - len(draft) :], draft)

    def _sample_rows(self, rows: NDArray[np.float32], draft: list[int]) -> list[Event]:
        """Tokens of the rows [1 + draft, vocab] until one is not what the draft had there."""
        self.cached -= len(draft)
        self.drafted += len(draft)
        events: list[Event] = []
        place = 0
        while True:
            sampled = self._sample(rows[place])
            events += sampled
            if isinstance(sampled[-1], FinishEvent) or not self.cached:  # ended, or slid
                return events
            for event in sampled:  # more than one where a constraint forces what follows
                right = isinstance(event, TokenEvent) and draft[place : place + 1] == [event.token]
                if self._wish is not None and place < len(draft):
                    self._trust.observe(right)
                if not right:
                    return events
                place += 1
                self.cached += 1
                self.accepted += 1

    def _score(self, places: range, logits: NDArray[np.float32]) -> list[Event]:
        if places:
            targets = np.array(self.window[places.start + 1 : places.stop + 1], np.int32)
            logprobs, tops = score_rows(logits[: len(places)], targets, self._top)
            self._logprobs += logprobs
            self._tops += tops
            self._scored = places.stop
        if self.cached < self.prompt_length:
            return []
        self._scoring = False
        return [PromptEvent(self._logprobs, self._tops)]

    def _sample(self, logits: NDArray[np.float32]) -> list[TokenEvent | FinishEvent]:
        if self._first_token is None:
            self._first_token = time.perf_counter()
        guide = self._guide
        if guide is not None and (forced := guide.first()):
            return self._take([TokenEvent(token) for token in forced])
        token, logprob, top = self._state.sample(logits)
        if guide is not None and not guide.allows(token):
            mask = guide.mask()
            if mask is None:
                return [self.finish("stop")]
            token, logprob, top = self._state.sample(logits, mask)
        if token in self._stops:
            return [self.finish("stop", token)]
        follow = [] if guide is None else guide.accept(token)
        return self._take([TokenEvent(token, logprob, top), *map(TokenEvent, follow)])

    def _take(self, tokens: list[TokenEvent]) -> list[TokenEvent | FinishEvent]:
        """Add tokens to the window, as far as the answer goes."""
        events: list[TokenEvent | FinishEvent] = []
        for event in tokens:
            if event.token in self._stops:
                return [*events, self.finish("stop", event.token)]
            self._state.append(event.token)
            self.window.append(event.token)
            if self._lookup is not None:
                self._lookup.append(event.token)
            events.append(event)
            if event is tokens[-1] and self._guide is not None and self._guide.ended:
                return [*events, self.finish("stop")]
            if self._state.answered >= self._max_tokens:
                return [*events, self.finish("length")]
            if len(self.window) > self._limit:
                if not self._shift:
                    return [*events, self.finish("context")]
                self._slide()
        return events

    def _slide(self) -> None:
        """Make room: the first few tokens and the newest half stay, and run again.

        The first tokens stay because attention leans on them whatever they say ("attention
        sinks", Xiao et al. 2023, arXiv:2309.17453); they hold the begin-of-text token too.
        """
        keep = min(_SINK_TOKENS, self._limit // 4)
        newest = max(1, self._limit // 2)
        self.window = self.window[:keep] + self.window[-newest:]
        self.cached = 0
        self.table.restart()

    def _usage(self) -> Usage:
        if self._first_token is None or self._started is None:
            return super()._usage()
        return Usage(
            self.prompt_length,
            self._state.answered,
            self._first_token - self._started,
            time.perf_counter() - self._first_token,
            self.taken_over,
            self.drafted,
            self.accepted,
        )


def _expected(chance: float, count: int) -> float:
    """Tokens that a draft of `count` adds, each right with probability `chance`."""
    return sum(chance**power for power in range(1, count + 1))
