"""Alpage's engine under a load of requests, and what a benchmark asks of any such server."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Protocol

from alpage.bench.latency import Answer
from alpage.bench.native import facts_of
from alpage.bench.traffic import TimedRequest
from alpage.core.errors import InternalError
from alpage.core.types import SamplingParams
from alpage.engine.engine import Engine
from alpage.engine.load import load_engine
from alpage.engine.native import NativeRunner
from alpage.engine.protocol import Event, FailEvent, FinishEvent, Request, TokenEvent
from alpage.weights.source import open_model


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are sampled on every side: the defaults of llama.cpp's server."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05


SAMPLING = Sampling()


class Server(Protocol):
    """One engine with one model, in a process of its own, that answers many requests."""

    def load(self) -> float:
        """Load the model anew; seconds."""
        ...

    def prepare(self, slots: int, context: int) -> None:
        """Empty caches with room for `slots` requests of `context` tokens. Not timed."""
        ...

    def serve(self, requests: Sequence[TimedRequest], together: int | None) -> list[Answer]:
        """Answer all requests, at their times or `together` at a time; in their order."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Version, build and settings of the engine."""
        ...


class AlpageServer:
    """See `Server`: the engine as `alpage serve` starts it, called in its own process."""

    def __init__(
        self, path: Path, *, threads: int, isa: str | None, sampling: Sampling = SAMPLING
    ) -> None:
        self._path = path
        self._threads = threads
        self._isa = isa
        self._sampling = sampling
        self._engine: Engine | None = None

    def load(self) -> float:
        """See `Server`; with the smallest cache."""
        start = perf_counter()
        self.prepare(1, 256)
        return perf_counter() - start

    def prepare(self, slots: int, context: int) -> None:
        """See `Server`."""
        self.close()
        with open_model(self._path) as source:
            self._engine = load_engine(
                source, threads=self._threads, context=min(context, source.config.context_length),
                cache_tokens=slots * context, isa=self._isa,
            )  # fmt: skip

    def serve(self, requests: Sequence[TimedRequest], together: int | None) -> list[Answer]:
        """See `Server`."""
        crowd = _Crowd(self._loaded, requests, self._sampling)
        if together is None:
            for number, request in enumerate(requests):
                sleep(max(0.0, request.at - crowd.now()))
                crowd.ask(number, request.at)
        else:
            crowd.ask_in_turn(together)
        return crowd.wait()

    def facts(self) -> Mapping[str, Any]:
        """See `Server`."""
        runner = self._loaded.runner
        assert isinstance(runner, NativeRunner)
        return facts_of(runner)

    def close(self) -> None:
        """Give everything back."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    @property
    def _loaded(self) -> Engine:
        if self._engine is None:
            raise InternalError("the model has not been loaded")
        return self._engine


class _Crowd:
    """Those who ask, and when each token of their answers came."""

    def __init__(
        self, engine: Engine, requests: Sequence[TimedRequest], sampling: Sampling
    ) -> None:
        self._engine = engine
        self._requests = requests
        self._sampling = sampling
        self._answers = [Answer(request.at) for request in requests]
        self._left = len(requests)
        self._next = len(requests)  # who asks when somebody has been answered
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._start = perf_counter()

    def now(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._start

    def ask(self, number: int, arrived: float) -> None:
        """Start one request, which arrived at a time that may have passed."""
        request, sampling, answer = self._requests[number], self._sampling, self._answers[number]
        answer.arrived = arrived
        params = SamplingParams(
            max_tokens=request.answer_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=request.seed,
            ignore_eos=True,
        )

        def on_event(event: Event) -> None:
            if isinstance(event, TokenEvent):
                answer.times.append(self.now())
                answer.tokens.append(event.token)
            elif isinstance(event, FailEvent):
                self._fail(event.error)
            elif isinstance(event, FinishEvent):
                self._finish(request, answer)

        self._engine.start(Request(request.prompt, params), on_event)

    def ask_in_turn(self, together: int) -> None:
        """Start the first requests; each one that ends starts the next."""
        first = min(together, len(self._requests))
        self._next = first
        for number in range(first):
            self.ask(number, 0.0)

    def wait(self) -> list[Answer]:
        """All answers, or the error of the first request that failed."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._answers

    def _finish(self, request: TimedRequest, answer: Answer) -> None:
        """In the engine's thread, like everything below."""
        if len(answer.tokens) != request.answer_tokens:
            self._fail(
                InternalError(
                    f"an answer has {len(answer.tokens)} tokens instead of {request.answer_tokens}"
                )
            )
            return
        self._left -= 1
        if not self._left:
            self._ended.set()
        if self._next < len(self._requests):
            number = self._next
            self._next += 1
            self.ask(number, self.now())

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._ended.set()
