"""One run of `alpage bench --serve-like`, from the options to the report."""

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alpage.bench.latency import UNITS, figures
from alpage.bench.machine import others_at_work, processor_times, stolen_share, this_machine
from alpage.bench.report import FEWEST_RUNS, Measurement, Report, Values
from alpage.bench.session import PEERS, check_machine, check_peer, disturbances, model_facts
from alpage.bench.traffic import Load, Mix, Traffic, from_text, from_vocabulary
from alpage.bench.turns import Progress, Worker, workers
from alpage.bench.worker import Job
from alpage.core.errors import UsageError
from alpage.core.processors import usable_processors
from alpage.llama.text import load_text_side
from alpage.weights.source import ModelSource, open_model

OVER_HTTP = "http"
"""In the place of a peer: Alpage's own server, to tell what it adds to its engine."""
TOGETHER = (16, 64)
"""Loads where none is asked for."""
_ROUNDS_OF_PLACES = 4
"""Requests of a closed loop by default, for each one at a time."""
_REQUESTS = 100
"""Requests of an open loop by default."""
_MOST_TOGETHER, _MOST_RATE, _MOST_REQUESTS = 1024, 10_000, 100_000
_PAGE = 256
"""llama.cpp rounds a slot's context up to this; so the caches of both are the same."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asked for. `text`: where prompts are taken from, else from the vocabulary."""

    model: Path
    threads: int | None = None
    isa: str | None = None
    runs: int = FEWEST_RUNS
    against: str | None = None
    rates: tuple[float, ...] = ()
    """Requests a second, a load each."""
    together: tuple[int, ...] = ()
    """Requests at a time, a load each."""
    requests: int | None = None
    """Of each load in each round."""
    slots: int = 16
    """Requests for which there is room in the open loop."""
    mix: Mix = field(default_factory=Mix)
    temperature: float = 0.8
    seed: int = 0
    text: str | None = None
    command: str = "alpage bench --serve-like"

    def loads(self) -> list[Load]:
        """From the lightest to the heaviest, the open loops first."""
        together = self.together or (() if self.rates else TOGETHER)
        rates = [
            Load("rate", rate, self.slots, self.requests or _REQUESTS)
            for rate in sorted(set(self.rates))
        ]
        return rates + [
            Load("together", count, count, self.requests or _ROUNDS_OF_PLACES * count)
            for count in sorted(set(together))
        ]


def check(options: Options) -> None:
    """Refuse what cannot be measured, before anything is loaded: UsageError says why."""
    check_machine(options.runs, options.threads, options.isa)
    for rate in options.rates:
        if not 0 < rate <= _MOST_RATE:
            raise UsageError(
                f"--requests-per-second must be above 0 and at most {_MOST_RATE}, not {rate:g}"
            )
    for name, count in [("concurrency", n) for n in options.together] + [("slots", options.slots)]:
        if not 1 <= count <= _MOST_TOGETHER:
            raise UsageError(f"--{name} must be between 1 and {_MOST_TOGETHER}, not {count}")
    for load in options.loads():
        # So that one that replaced another is itself replaced: see `figures`.
        least = 3 * (load.together or 1)
        if not least <= load.requests <= _MOST_REQUESTS:
            raise UsageError(
                f"--requests must be between {least} and {_MOST_REQUESTS} for {load.name}, "
                f"not {load.requests}"
            )
    for part, mean in asdict(options.mix).items():
        if not 1 <= mean <= 1_000_000:
            raise UsageError(f"--{part}-tokens must be between 1 and 1000000, not {mean:g}")
    if not 0 <= options.temperature <= 100:
        raise UsageError(f"--temperature must be between 0 and 100, not {options.temperature:g}")
    if not 0 <= options.seed < 1 << 63:
        raise UsageError(f"--seed must be between 0 and 2^63 - 1, not {options.seed}")
    if options.against != OVER_HTTP:
        check_peer(options.against, options.model, known=(*PEERS, OVER_HTTP))


def measure(options: Options, progress: Progress) -> Report:
    """Measure every load; takes minutes to hours. Errors are those of `check` and of loading."""
    check(options)
    date = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    with open_model(options.model) as source:
        model = model_facts(source)
        context = _context(options.mix, source.config.context_length)
        traffic = _traffic(options, source)
    threads = options.threads or usable_processors()
    engines = ["alpage", *([options.against] if options.against else [])]
    jobs = [
        Job(name, str(options.model), threads, options.isa, [], True, options.temperature)
        for name in engines
    ]
    others, before = others_at_work(), processor_times()
    found: list[Measurement] = []
    asked: dict[str, Any] = {}
    with workers(jobs) as servers:
        progress("loading")
        for server in servers:
            server.load()
        for load in options.loads():
            found += measure_load(servers, load, context, traffic, options.runs, progress)
            asked[load.name] = _asked(traffic, load, options.runs)
        facts = {server.engine: server.facts for server in servers}
    settings = {
        "kind": "serving",
        "threads": threads,
        "runs": options.runs,
        "seed": options.seed,
        "temperature": options.temperature,
        "mean_tokens": asdict(options.mix),
        "context": context,
        "prompts": "vocabulary" if options.text is None else "text",
        "loads": [load.as_json() for load in options.loads()],
        "asked": asked,
        "others_at_work": others,
        "stolen": stolen_share(before, processor_times()),
    }
    return Report(
        date=date,
        command=options.command,
        model=model,
        machine=this_machine().as_json(),
        settings=settings,
        engines=facts,
        measurements=found,
        notes=disturbances(settings, options.runs),
    )


def measure_load(
    servers: Sequence[Worker],
    load: Load,
    context: int,
    traffic: Traffic,
    runs: int,
    progress: Progress,
) -> list[Measurement]:
    """Every figure of one load by round, the engines in turns; the first round warms up.

    After it the caches hold the system prompts, and whatever else an engine keeps.
    """
    for server in servers:
        server.open(load.slots, context)
    found: dict[str, dict[str, Values]] = {
        name: {server.engine: {"": []} for server in servers} for name in UNITS
    }
    for turn in range(runs + 1):
        requests = traffic.requests(load, turn)
        for server in servers:
            what = f"round {turn} of {runs}" if turn else "warming up"
            progress(f"{load.name}, {what}: {server.engine}")
            answers = server.serve(requests, load.together)
            if turn:
                for name, value in figures(load, requests, answers).items():
                    found[name][server.engine][""].append(value)
    return [
        Measurement(measurement_name(load, name), UNITS[name], values)
        for name, values in found.items()
    ]


def measurement_name(load: Load, figure: str) -> str:
    """What a figure of `UNITS` is called in a report."""
    return f"{load.name}: {figure}"


def _context(mix: Mix, most: int) -> int:
    """Cache places for each request; UsageError where the model cannot hold the longest."""
    if mix.longest > most:
        raise UsageError(
            f"the longest request has {mix.longest} tokens, but the model holds {most}; ask for "
            "shorter ones: --system-tokens, --message-tokens, --answer-tokens"
        )
    return math.ceil(mix.longest / _PAGE) * _PAGE


def _traffic(options: Options, source: ModelSource) -> Traffic:
    text_side = load_text_side(source)
    tokenizer = text_side.tokenizer
    begin = text_side.encode_prompt("")
    if options.text is not None:
        passage = from_text(np.array(tokenizer.encode(options.text), np.int32))
    else:
        plain = [n for n in range(source.config.vocab_size) if not tokenizer.is_special(n)]
        passage = from_vocabulary(np.array(plain, np.int32))
    return Traffic(options.mix, passage, options.seed, begin)


def _asked(traffic: Traffic, load: Load, runs: int) -> Mapping[str, float]:
    """What the counted rounds asked: mean tokens of prompts and answers."""
    asked = [request for turn in range(1, runs + 1) for request in traffic.requests(load, turn)]
    return {
        "requests": len(asked),
        "prompt_tokens": round(float(np.mean([len(request.prompt) for request in asked])), 1),
        "answer_tokens": round(float(np.mean([request.answer_tokens for request in asked])), 1),
    }
