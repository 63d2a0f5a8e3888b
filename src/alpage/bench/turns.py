"""Engines in processes of their own, measured in turns: A, B, A, B, and so on."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import IO, Any

from alpage.bench.cases import Case
from alpage.bench.latency import Answer
from alpage.bench.report import Measurement, Values
from alpage.bench.start import PROMPT
from alpage.bench.traffic import TimedRequest
from alpage.bench.worker import Job, raise_error
from alpage.core.errors import InternalError

Progress = Callable[[str], None]
"""Told what is measured next, in words."""

_PYTHON = (sys.executable, "-P", "-m")  # -P: modules of the current folder are not ours
_COMMAND_LINE = "import sys; from alpage.cli import main; sys.exit(main())"  # the script `alpage`
_PAUSE = 0.02
"""Seconds between turns: threads that spin after work have gone to sleep by then."""
_MIB = 1 << 20


class Worker:
    """The other end of `alpage.bench.worker`. One measurement at a time, over a pipe.

    `command` starts a program that speaks as that module does; `log` gets what it says otherwise.
    """

    def __init__(self, engine: str, command: Sequence[str], log: IO[bytes]) -> None:
        self.engine = engine
        self.variants: Sequence[str] = ("",)
        self.facts: Mapping[str, Any] = {}
        self._log = log
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip

    def load(self) -> float:
        """Load the model anew; seconds."""
        answer = self._ask({"do": "load"})
        self.variants, self.facts = answer["variants"], answer["facts"]
        return float(answer["seconds"])

    def prepare(self, case: Case) -> None:
        """Fill the caches that `case` starts from."""
        self._ask({"do": "prepare", "case": case.as_json()})

    def run(self, case: Case, variant: str) -> float:
        """Tokens per second, once."""
        return float(self._ask({"do": "run", "case": case.as_json(), "variant": variant})["rate"])

    def open(self, slots: int, context: int) -> None:
        """Empty caches for `slots` requests of `context` tokens, in a worker that serves."""
        self._ask({"do": "open", "slots": slots, "context": context})

    def serve(self, requests: Sequence[TimedRequest], together: int | None) -> list[Answer]:
        """Answer requests (`Server.serve`); the tokens themselves stay with the worker."""
        asked = [request.as_json() for request in requests]
        answer = self._ask({"do": "serve", "requests": asked, "together": together})
        return [Answer(found["arrived"], found["times"]) for found in answer["answers"]]

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{json.dumps(request)}\n".encode())
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise InternalError(f"{self.engine} ended with code {code}: {_last_words(self._log)}")
        sleep(_PAUSE)
        answer: dict[str, Any] = json.loads(line)
        raise_error(answer)
        return answer


@contextlib.contextmanager
def workers(jobs: Sequence[Job | tuple[str, Sequence[str]]]) -> Iterator[list[Worker]]:
    """One process for each job, or for the name of an engine and its command.

    All have ended when this does.
    """
    with contextlib.ExitStack() as stack:
        started = []
        for job in jobs:
            log = stack.enter_context(tempfile.TemporaryFile())
            if isinstance(job, Job):
                worker = Worker(job.engine, [*_PYTHON, "alpage.bench.worker", job.to_json()], log)
            else:
                worker = Worker(*job, log)
            stack.callback(worker.kill)
            started.append(worker)
        yield started


def measure_loading(sides: Sequence[Worker], runs: int) -> Measurement:
    """Seconds from file to ready in a running process; once before, for the file's cache."""
    found: dict[str, list[float]] = {side.engine: [] for side in sides}
    for side in sides:
        side.load()
    for _ in range(runs):
        for side in sides:
            found[side.engine].append(side.load())
    return Measurement("load", "s", {engine: {"": values} for engine, values in found.items()})


def measure_case(sides: Sequence[Worker], case: Case, runs: int) -> Measurement:
    """Rates of every engine and variant, in turns; the first round is for warming up."""
    if case.is_own:
        sides = [side for side in sides if side.engine == "alpage"]
    for side in sides:
        side.prepare(case)
    found: dict[str, Values] = {
        side.engine: {variant: [] for variant in side.variants} for side in sides
    }
    for turn in range(runs + 1):
        for side in sides:
            for variant in side.variants:
                rate = side.run(case, variant)
                if turn:
                    found[side.engine][variant].append(rate)
    return Measurement(case.name, case.unit, found)


def measure_starts(
    engines: Sequence[str], model: str, threads: int, runs: int, program: Path | None = None
) -> list[Measurement]:
    """Whole processes: time to the first token, and peak memory. The first round warms up.

    `program` is llama.cpp's own: its time from start to end is compared with that of `alpage run`,
    both for one token.
    """
    first, run, whole, memory = (
        "process start to first token",
        "process start to first token, alpage run",
        "process start to end, one token",
        "peak resident memory",
    )
    found: dict[str, dict[str, list[float]]] = {name: {} for name in (first, run, whole, memory)}
    own_run = ["run", "--raw", "--max-tokens", "1", "--threads", str(threads), model, PROMPT]
    with _compiled_modules() as environment:
        for turn in range(runs + 1):
            seen: dict[tuple[str, str], float] = {}
            for engine in engines:
                command = [*_PYTHON, "alpage.bench.start", engine, model, str(threads)]
                ended = time_to_output(command, environment)
                seen[first, engine] = ended.first
                seen[memory, engine] = int(ended.output.split()[-1]) / _MIB
            ended = time_to_output(
                [sys.executable, "-P", "-c", _COMMAND_LINE, *own_run], environment
            )
            seen[run, "alpage"] = ended.first
            if program is not None:
                seen[whole, "alpage"] = ended.end
                command = [str(program), "-m", model, "-n", "1", PROMPT]
                seen[whole, "llama.cpp"] = time_to_output(command, environment).end
            for (name, engine), value in seen.items():
                if turn:
                    found[name].setdefault(engine, []).append(value)
    if not all(all(values) for values in found[memory].values()):
        del found[memory]  # this system does not tell
    return [
        Measurement(
            name,
            "MiB" if name == memory else "s",
            {engine: {"": values} for engine, values in by_engine.items()},
        )
        for name, by_engine in found.items()
        if by_engine
    ]


@contextlib.contextmanager
def _compiled_modules() -> Iterator[dict[str, str]]:
    """An environment in which processes find Python modules compiled, once one has loaded them.

    So do users: installers compile what they install. A checkout's modules are compiled at every
    start where Python may not write beside them (a variable of its own, a read-only folder).
    """
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        yield {**environment, "PYTHONPYCACHEPREFIX": folder}


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended: seconds from its start to its first byte of output, and its end."""

    first: float
    end: float
    output: str


def time_to_output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Run a program that must print something; `InternalError` with its last words if it fails."""
    with tempfile.TemporaryFile() as log:
        start = perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, bufsize=0,
            env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            first = os.read(process.stdout.fileno(), 1)
            seconds = perf_counter() - start
            rest = process.stdout.read()
            code = process.wait()
            end = perf_counter() - start
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
        if code or not first:
            raise InternalError(f"a measured program failed ({code}): {_last_words(log)}")
    return Ended(seconds, end, (first + rest).decode("utf-8", "replace"))


def _last_words(log: IO[bytes]) -> str:
    """The end of what a process wrote to standard error."""
    log.seek(0)
    return log.read()[-2000:].decode("utf-8", "replace").strip() or "it said nothing"
