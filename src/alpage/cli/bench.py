"""`alpage bench`: this machine's figures, alone or beside a peer's."""

import shlex
import sys
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from alpage.bench.plot import check_plotting, draw
from alpage.bench.report import Report
from alpage.bench.session import Options, check, measure
from alpage.bench.stages import measure_stages
from alpage.catalogue.entries import DEFAULT_MODEL
from alpage.cli.loading import ready
from alpage.cli.options import Model, Threads
from alpage.cli.output import megabytes, note, print_table, say
from alpage.cli.progress import byte_progress
from alpage.cli.serve_like import (
    SERVING_NAMES,
    AnswerTokens,
    Concurrency,
    MessageTokens,
    Rates,
    Requests,
    Seed,
    ServeLike,
    Slots,
    SystemTokens,
    Temperature,
    Text,
    draw_loads,
    measure_serving,
    serving_options,
)
from alpage.core.errors import UsageError
from alpage.core.paths import atomic_write
from alpage.core.processors import usable_processors
from alpage.core.settings import Settings

Against = Annotated[
    str | None,
    typer.Option(
        metavar="ENGINE",
        help="Measure another engine in turns, on the same file: llama.cpp (the extra 'bench').",
    ),
]
JsonFile = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Save everything as JSON; - prints it instead."),
]
Runs = Annotated[int, typer.Option(metavar="N", help="Rounds; medians are shown.")]
MakeShape = Annotated[
    str | None,
    typer.Option(
        metavar="SHAPE",
        help="Measure nothing; write a model of Llama's size 1b, 3b or 8b with random weights.",
    ),
]
Kind = Annotated[
    str | None,
    typer.Option("--type", metavar="TYPE", help="With --make-shape: as alpage quantize. [Q4_K_M]"),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="With --make-shape: the file. [llama-SHAPE.TYPE.gguf]"),
]
Stages = Annotated[
    bool,
    typer.Option("--stages", help="Only the time of each stage of a pass, beside its limit."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="FIGURE", help="Only this figure, as the table names it. [all; repeat]"),
]
Program = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="llama.cpp's own program: its start, called with -m MODEL -n 1 PROMPT, is timed too.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the comparison as PNG (the extra 'bench')."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer and shorter measurements.")]


def command(
    model: Model = DEFAULT_MODEL,
    json: JsonFile = None,
    against: Against = None,
    runs: Runs = 5,
    threads: Threads = None,
    quick: Quick = False,
    only: Only = None,
    plot: Plot = None,
    program: Program = None,
    stages: Stages = False,
    make_shape: MakeShape = None,
    kind: Kind = None,
    out: Out = None,
    serve_like: ServeLike = False,
    requests_per_second: Rates = None,
    concurrency: Concurrency = None,
    requests: Requests = None,
    slots: Slots = None,
    message_tokens: MessageTokens = None,
    answer_tokens: AnswerTokens = None,
    system_tokens: SystemTokens = None,
    text: Text = None,
    temperature: Temperature = None,
    seed: Seed = None,
) -> None:
    """Measure speed on this machine: prompts, answers, many at once, start-up and memory.

    Each engine has a process of its own, and they take turns. Nothing else should be running.
    """
    serving = {
        "rates": requests_per_second, "together": concurrency, "requests": requests,
        "slots": slots, "message": message_tokens, "answer": answer_tokens,
        "system": system_tokens, "text": text, "temperature": temperature, "seed": seed,
    }  # fmt: skip
    single = {"quick": quick, "only": only, "program": program, "stages": stages}
    _check_modes(serve_like, make_shape, serving, {**single, "type": kind, "out": out})
    if make_shape is not None:
        _make(make_shape, kind or "Q4_K_M", out)
        return
    settings = Settings.from_environment()
    command_line = shlex.join(["alpage", *map(_without_folder, sys.argv[1:])])
    machine: dict[str, Any] = {
        "model": Path(model), "threads": threads or settings.threads, "isa": settings.isa,
        "runs": runs, "against": against, "command": command_line,
    }  # fmt: skip
    if serve_like:
        report = measure_serving(serving_options(machine, serving), model, settings, plot)
        _show_or_save(report, json)
        draw_loads(report, plot)
        return
    wanted = Options(**machine, quick=quick, only=tuple(only or ()), program=program)
    _measure(wanted, model, settings, stages=stages, json=json, plot=plot)


def _check_modes(
    serve_like: bool, make_shape: str | None, serving: dict[str, Any], others: dict[str, Any]
) -> None:
    """UsageError for options of one way of measuring that are given with another."""
    if not serve_like and any(value is not None for value in serving.values()):
        given = ", ".join(SERVING_NAMES[name] for name, v in serving.items() if v is not None)
        raise UsageError(f"{given}: only with --serve-like")
    for name in ("type", "out"):
        if others[name] is not None and make_shape is None:
            raise UsageError("--type and --out belong to --make-shape")
    unfit = [f"--{name}" for name, value in others.items() if value]
    if serve_like and (unfit or make_shape is not None):
        raise UsageError(f"{', '.join(unfit) or '--make-shape'} does not go with --serve-like")


def _measure(
    wanted: Options, model: str, settings: Settings, *, stages: bool, json: str | None,
    plot: Path | None,
) -> None:  # fmt: skip
    """Everything but loads of requests."""
    check(wanted)  # what cannot be measured is said before a model is downloaded
    if stages and (wanted.against is not None or wanted.quick or wanted.only):
        raise UsageError("--stages measures Alpage alone, all of it, and not in a hurry")
    if plot is not None:
        if wanted.against is None:
            raise UsageError("--plot draws a comparison: say with --against what to compare with")
        check_plotting()
    wanted = replace(wanted, model=ready(model, settings))
    if stages:
        _show_stages(wanted, json)
        return
    report = measure(wanted, lambda what: note(f"measuring {what}"))
    if plot is not None:
        draw(report, plot)
    _show_or_save(report, json)


def _show_or_save(report: Report, json: str | None) -> None:
    if json == "-":
        say(report.to_json())
        return
    _show(report)
    if json is not None:
        _save(report.to_json(), json)


def _show_stages(options: Options, json: str | None) -> None:
    found = measure_stages(
        options.model,
        threads=options.threads or usable_processors(),
        isa=options.isa,
        runs=options.runs,
        progress=lambda what: note(f"measuring {what}"),
    )
    text = dumps([case.as_json() for case in found], indent=1)
    if json == "-":
        say(text)
        return
    for number, case in enumerate(found):
        say("\n" * (number > 0) + case.title() + "\n")
        print_table(*case.table())
    if json is not None:
        _save(text, json)


def _save(text: str, path: str) -> None:
    with atomic_write(Path(path)) as file:
        file.write(f"{text}\n".encode())
    note(f"saved as {path}")


def _make(shape: str, kind: str, out: Path | None) -> None:
    """Write a random model; its weights are made as they are written."""
    from alpage.convert.place import check_target
    from alpage.convert.quantize import mix_name, quantize
    from alpage.convert.shapes import random_model

    mix, source = mix_name(kind), random_model(shape)
    target = out or Path(f"llama-{shape.lower()}.{mix}.gguf")
    check_target(source, target, force=False, folder=False)
    with byte_progress(target.name) as progress:
        made = quantize(source, target, mix, progress=progress)
    note(f"{target} has random weights, {megabytes(made.file_bytes)}: measure it with")
    say(f"alpage bench {shlex.quote(str(target))}")


def _without_folder(argument: str) -> str:
    """Reports are published; the folders of one machine are nobody else's."""
    return Path(argument).name if "/" in argument or "\\" in argument else argument


def _show(report: Report) -> None:
    say("\n".join(report.context()) + "\n")
    head, *rows = report.table()
    print_table(head, rows)
    for line in report.notes:
        note(f"note: {line}")
