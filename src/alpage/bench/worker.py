"""One engine in a process of its own, which takes turns: measure when asked, otherwise idle.

`python -m alpage.bench.worker JOB` where JOB is the JSON of a `Job`. Requests come as lines of
JSON on standard input, answers go as lines of JSON to standard output; whatever libraries print
goes to standard error.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from alpage.bench.cases import Case
from alpage.bench.side import Side
from alpage.bench.traffic import TimedRequest
from alpage.core import errors
from alpage.core.errors import AlpageError, InternalError

if TYPE_CHECKING:  # the engine loads only where it is measured
    from alpage.bench.serving import Server

Answerer = Callable[[dict[str, Any]], dict[str, Any]]
EngineName = str  # "alpage", "llama.cpp" or "http"


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is started with."""

    engine: EngineName
    model: str
    threads: int
    isa: str | None
    cases: list[Case]
    serving: bool = False
    """Whether requests are answered, rather than cases measured."""
    temperature: float = 0.0

    def to_json(self) -> str:
        """For the command line of the worker."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "cases": [Case.of(case) for case in values["cases"]]})


def main() -> None:
    """Serve until standard input ends."""
    answers = _own_output()
    ask: Answerer | None = None
    for line in sys.stdin:
        try:
            ask = ask or _answerer(Job.of(sys.argv[1]))
            answer = ask(json.loads(line))
        except AlpageError as error:
            answer = {"error": str(error), "kind": type(error).__name__}
        except MemoryError:
            answer = {"error": "not enough memory for this measurement", "kind": "CapacityError"}
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()


def raise_error(answer: dict[str, Any]) -> None:
    """Raise, on the asking side, what the worker reported."""
    if "error" in answer:
        kind = getattr(errors, str(answer.get("kind")), InternalError)
        raise kind(answer["error"])


def _answerer(job: Job) -> Answerer:
    if job.serving:
        return functools.partial(_serve, _server(job))
    return functools.partial(_measure, _side(job))


def _measure(side: Side, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "load":
        return {"seconds": side.load(), "variants": side.variants, "facts": dict(side.facts())}
    case = Case.of(request["case"])
    if request["do"] == "prepare":
        side.prepare(case)
        return {}
    return {"rate": side.run(case, request["variant"])}


def _serve(server: "Server", request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "load":
        return {"seconds": server.load(), "variants": [""], "facts": dict(server.facts())}
    if request["do"] == "open":
        server.prepare(request["slots"], request["context"])
        return {}
    requests = [TimedRequest.of(values) for values in request["requests"]]
    answers = server.serve(requests, request["together"])
    return {"answers": [{"arrived": a.arrived, "times": a.times} for a in answers]}


def _side(job: Job) -> Side:
    """Only the engine that is measured is imported."""
    if job.engine == "llama.cpp":
        from alpage.bench.llamacpp import LlamaCppSide

        return LlamaCppSide(Path(job.model), threads=job.threads)
    from alpage.bench.native import AlpageSide

    return AlpageSide(Path(job.model), threads=job.threads, isa=job.isa, cases=job.cases)


def _server(job: Job) -> "Server":
    from alpage.bench.serving import AlpageServer, Sampling

    sampling = Sampling(job.temperature)
    if job.engine == "llama.cpp":
        from alpage.bench.slots import LlamaCppServer

        return LlamaCppServer(Path(job.model), threads=job.threads, sampling=sampling)
    if job.engine == "http":
        from alpage.bench.over_http import HttpServer

        return HttpServer(Path(job.model), threads=job.threads, sampling=sampling)
    return AlpageServer(Path(job.model), threads=job.threads, isa=job.isa, sampling=sampling)


def _own_output() -> TextIO:
    """Standard output for answers alone: file descriptor 1 becomes another standard error."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


if __name__ == "__main__":
    main()
