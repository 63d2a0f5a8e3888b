"""One run of `alpage bench`, from the options to the report."""

import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpage.bench import llamacpp
from alpage.bench.cases import DECODE, LOAD, MEMORY, START, names, plan
from alpage.bench.machine import others_at_work, processor_times, stolen_share, this_machine
from alpage.bench.report import FEWEST_RUNS, Measurement, Report, Values
from alpage.bench.stages import bytes_of_a_step
from alpage.bench.turns import (
    Progress,
    measure_case,
    measure_loading,
    measure_starts,
    workers,
)
from alpage.bench.worker import Job
from alpage.core.errors import UsageError
from alpage.core.processors import usable_processors
from alpage.engine.native import available_isas, packed_bytes
from alpage.weights.source import ModelSource, open_model
from alpage.weights.tensor import Tensor

PEERS = ("llama.cpp",)
_BUSY = 0.25
"""Share of the processors from which other programs disturb the figures."""
_STOLEN = 0.02
"""Share of the wanted processor time."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asked for. `against` is one of `PEERS`."""

    model: Path
    threads: int | None = None
    isa: str | None = None
    runs: int = FEWEST_RUNS
    quick: bool = False
    against: str | None = None
    only: tuple[str, ...] = ()
    """Names of figures (`cases.names`); none of them means all."""
    program: Path | None = None
    """llama.cpp's own program, whose start is measured too."""
    command: str = "alpage bench"


def check(options: Options) -> None:
    """Refuse what cannot be measured, before anything is loaded: UsageError says why."""
    check_machine(options.runs, options.threads, options.isa)
    known = names(quick=options.quick)
    for name in options.only:
        if name not in known:
            raise UsageError(f"there is no figure {name!r}; there are: {'; '.join(known)}")
    if options.program is not None and options.against is None:
        raise UsageError("--program is llama.cpp's: it goes with --against llama.cpp")
    if options.program is not None and not os.access(options.program, os.X_OK):
        raise UsageError(f"{options.program} is no program that can be run")
    check_peer(options.against, options.model)


def check_machine(runs: int, threads: int | None, isa: str | None) -> None:
    """UsageError for rounds, threads or an instruction set that cannot be."""
    if not 1 <= runs <= 1000:
        raise UsageError(f"runs must be between 1 and 1000, not {runs}")
    if threads is not None and not 1 <= threads <= 1024:
        raise UsageError(f"threads must be between 1 and 1024, not {threads}")
    if isa is not None and isa not in available_isas():
        raise UsageError(f"this machine does not run {isa}; it runs {', '.join(available_isas())}")


def check_peer(against: str | None, model: Path, known: Sequence[str] = PEERS) -> None:
    """UsageError for a peer that is unknown, not installed, or cannot read the model."""
    if against is None:
        return
    if against not in known:
        raise UsageError(f"--against takes {', '.join(known)}, not {against!r}")
    if model.is_dir():
        raise UsageError(
            f"--against llama.cpp needs a GGUF file that both engines read; {model} is a folder"
        )
    llamacpp.check_installed()


def measure(options: Options, progress: Progress) -> Report:
    """Measure everything; takes minutes with a peer. Errors are those of `check` and of loading."""
    check(options)
    date = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    engines = ["alpage", *([options.against] if options.against else [])]
    with open_model(options.model) as source:
        model = model_facts(source)
        length = source.config.context_length
        cases, left_out = plan(length, quick=options.quick, only=options.only)
        step_bytes = {name: bytes_of_a_step(source, tensor_bytes(name)) for name in engines}
    threads = options.threads or usable_processors()

    def wants(name: str) -> bool:
        return not options.only or name in options.only

    jobs = [Job(name, str(options.model), threads, options.isa, cases) for name in engines]
    others, before = others_at_work(), processor_times()
    found: list[Measurement] = []
    with workers(jobs) as sides:
        progress("loading")
        loading = measure_loading(sides, options.runs if wants(LOAD) else 0)
        for case in cases:
            progress(case.name)
            found.append(measure_case(sides, case, options.runs))
        facts = {side.engine: side.facts for side in sides}
    found = [*_with_share_of_memory(found, step_bytes)]
    if wants(LOAD):
        found.append(loading)
    if wants(START):
        progress("process start to first token")
        model_file = str(options.model)
        found += measure_starts(engines, model_file, threads, options.runs, options.program)
    settings = {
        "threads": threads,
        "runs": options.runs,
        "quick": options.quick,
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
        notes=_notes(options, [case.name for case in left_out], settings),
    )


def tensor_bytes(engine: str) -> Callable[[Tensor], int]:
    """How many bytes of memory a matrix is to an engine. The peers keep it as it is in the file."""
    return packed_bytes if engine == "alpage" else lambda tensor: tensor.nbytes


def _with_share_of_memory(
    found: Sequence[Measurement], step_bytes: Mapping[str, int]
) -> Iterator[Measurement]:
    """After the rate of memory: how near decoding comes to it, where both were measured."""
    decode = next((measurement for measurement in found if measurement.name == DECODE.name), None)
    for measurement in found:
        yield measurement
        if measurement.name == MEMORY.name and decode is not None:
            percent = 100 / 1e9 / measurement.median("alpage")
            shares: dict[str, Values] = {
                engine: {"": [rate * step_bytes[engine] * percent for rate in decode.best(engine)]}
                for engine in decode.engines
            }
            yield Measurement("decode, of that rate", "%", shares)


def model_facts(source: ModelSource) -> dict[str, Any]:
    """What a report says of the model."""
    return {
        "name": source.name,
        "file": source.path.name,
        "quantization": source.quantization,
        "bytes": source.file_bytes,
    }


def _notes(options: Options, left_out: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must know."""
    notes = []
    if options.quick:
        notes.append("quick: shorter measurements, for orientation only")
    notes += disturbances(settings, options.runs)
    if left_out:
        notes.append(f"left out, longer than the model's context: {', '.join(left_out)}")
    return notes


def disturbances(settings: Mapping[str, Any], runs: int) -> list[str]:
    """Why figures of a run may not be what they seem."""
    others, stolen, threads = settings["others_at_work"], settings["stolen"], settings["threads"]
    notes = []
    if runs < FEWEST_RUNS:
        notes.append(f"{runs} runs: a claim needs at least {FEWEST_RUNS}")
    processors = usable_processors()
    if others is not None and others > _BUSY * processors:
        notes.append(
            f"other programs were using {others:.1f} of {processors} processors: neither figures "
            "nor ratios can be relied on"
        )
    if stolen is not None and stolen > _STOLEN:
        notes.append(
            f"this virtual machine did not get {stolen:.0%} of the processor time that it wanted: "
            "figures are lower than on a machine of one's own"
        )
    if threads > processors:
        notes.append(f"{threads} threads on {processors} processors: they wait for one another")
    return notes
