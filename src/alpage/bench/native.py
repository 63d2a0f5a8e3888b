"""Alpage's side of a benchmark: the native runner, driven one forward pass at a time."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from alpage import __version__
from alpage.bench.cases import Case, token_ids
from alpage.core.errors import InternalError
from alpage.core.types import SamplingParams
from alpage.engine.engine import Engine
from alpage.engine.native import NativeRunner, read_rate, sample_row
from alpage.engine.protocol import Event, FailEvent, FinishEvent, Request, StepBatch, TokenEvent
from alpage.llama.text import load_text_side
from alpage.weights.source import open_model

_PROMPT_ROWS = 512  # as many as the scheduler puts into a step
_WARM_STEPS = 2


class AlpageSide:
    """See `Side`. The cache is as large as `cases` need, and no larger."""

    variants = ("",)

    def __init__(self, path: Path, *, threads: int, isa: str | None, cases: list[Case]) -> None:
        self._path = path
        self._threads = threads
        self._isa = isa
        self._tokens = max([256, *(case.sequences * (case.positions + 16) for case in cases)])
        self._loaded: NativeRunner | None = None
        self._engine: Engine | None = None

    def load(self) -> float:
        """Weights repacked, tokenizer and cache ready."""
        self.close()
        start = perf_counter()
        with open_model(self._path) as source:
            load_text_side(source)
            self._loaded = NativeRunner(
                source, threads=self._threads, context_tokens=self._tokens, isa=self._isa
            )
        return perf_counter() - start

    def prepare(self, case: Case) -> None:
        """Bring every sequence to the case's depth."""
        if case.depth:
            for sequence in range(case.sequences):
                self._prefill(case, sequence, case.depth)

    def run(self, case: Case, variant: str) -> float:
        """See `Side`."""
        if case.kind == "engine":
            return self._through_the_scheduler(case)
        if case.kind == "memory":
            size = min(max(64 << 20, self._runner.weight_bytes), 1 << 30)
            return read_rate(self._threads, size) / 1e9
        if case.kind == "prefill":
            self._prefill(case, 0, min(32, case.tokens))
            start = perf_counter()
            self._prefill(case, 0, case.tokens)
        else:
            steps = list(self._steps(case))
            for step in steps[:_WARM_STEPS]:
                self._runner.forward(step)
            start = perf_counter()
            for step in steps:
                self._runner.forward(step)
        return case.sequences * case.tokens / (perf_counter() - start)

    def stages(self, case: Case) -> dict[str, float]:
        """Seconds of each stage of one pass of a prefill or decode case, on average."""
        runner = self._runner
        if case.kind == "prefill":
            runner.time_stages()
            self._prefill(case, 0, case.tokens)
            return runner.stage_seconds()
        steps = list(self._steps(case))
        for step in steps[:_WARM_STEPS]:
            runner.forward(step)
        runner.time_stages()
        for step in steps:
            runner.forward(step)
        return {name: seconds / len(steps) for name, seconds in runner.stage_seconds().items()}

    def facts(self) -> Mapping[str, Any]:
        """See `Side`."""
        return facts_of(self._runner)

    @property
    def _runner(self) -> NativeRunner:
        if self._loaded is None:
            raise InternalError("the model has not been loaded")
        return self._loaded

    def close(self) -> None:
        """Give everything back."""
        if self._engine is not None:
            self._engine.close()  # closes the runner
        elif self._loaded is not None:
            self._loaded.close()
        self._engine = self._loaded = None

    def _pages(self, case: Case, sequence: int) -> range:
        """Pages of one sequence: consecutive, no others have them."""
        each = -(-case.positions // self._runner.page_size)
        return range(sequence * each, (sequence + 1) * each)

    def _prefill(self, case: Case, sequence: int, count: int) -> None:
        """Run the first `count` tokens of one sequence, logits of the last one only."""
        tokens = token_ids(count, self._runner.config.vocab_size)
        table = np.array([self._pages(case, sequence)], np.int32)
        for first in range(0, count, _PROMPT_ROWS):
            part = tokens[first : first + _PROMPT_ROWS]
            last = [len(part) - 1] if first + len(part) == count else []
            self._runner.forward(
                StepBatch(
                    part,
                    np.arange(first, first + len(part), dtype=np.int32),
                    np.zeros(len(part), np.int32),
                    table,
                    np.array(last, np.int32),
                )
            )

    def _steps(self, case: Case) -> Iterator[StepBatch]:
        """One batch for each step of a decode case."""
        count = case.sequences
        rows = np.arange(count, dtype=np.int32)
        tables = np.array([self._pages(case, s) for s in range(count)], np.int32)
        ids = token_ids(case.tokens * count, self._runner.config.vocab_size)
        for step, tokens in enumerate(ids.reshape(case.tokens, count)):
            yield StepBatch(tokens, np.full(count, case.depth + step, np.int32), rows, tables, rows)

    def _through_the_scheduler(self, case: Case) -> float:
        """Tokens per second while all sequences of the case are answering."""
        if self._engine is None:
            self._engine = Engine(self._runner, sampler=sample_row)
        tokens = case.tokens + 1  # the first one belongs to the prompt
        sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        prompts = token_ids(case.sequences, self._runner.config.vocab_size)
        answers = [_Answer() for _ in prompts]
        for prompt, answer in zip(prompts, answers, strict=True):
            self._engine.start(Request([int(prompt)], sampling, speculate=False), answer.on_event)
        for answer in answers:
            answer.wait()
        start = max(answer.times[0] for answer in answers)
        end = min(answer.times[-1] for answer in answers)
        counted = sum(start < time <= end for answer in answers for time in answer.times)
        return counted / (end - start)


def facts_of(runner: NativeRunner) -> Mapping[str, Any]:
    """Version, build and settings of Alpage's side of a comparison."""
    return {
        "version": __version__,
        "isa": runner.isa,
        "threads": runner.threads,
        "weight_bytes": runner.weight_bytes,
        "cache_type": runner.kv,
    }


class _Answer:
    """When each token of one answer came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def on_event(self, event: Event) -> None:
        if isinstance(event, TokenEvent):
            self.times.append(perf_counter())
        elif isinstance(event, FailEvent):
            self._error = event.error
            self._ended.set()
        elif isinstance(event, FinishEvent):
            self._ended.set()

    def wait(self) -> None:
        self._ended.wait()
        if self._error is not None:
            raise self._error
