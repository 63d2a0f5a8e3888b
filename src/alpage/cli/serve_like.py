"""The options of `alpage bench --serve-like`, and how it goes."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from alpage.bench.curve import draw_curve
from alpage.bench.plot import check_plotting
from alpage.bench.report import Report
from alpage.bench.serve_like import Options, check, measure
from alpage.bench.traffic import Mix
from alpage.cli.loading import ready
from alpage.cli.output import note
from alpage.core.settings import Settings

_PANEL = "With --serve-like"

SERVING_NAMES = {
    "rates": "--requests-per-second",
    "together": "--concurrency",
    "requests": "--requests",
    "slots": "--slots",
    "message": "--message-tokens",
    "answer": "--answer-tokens",
    "system": "--system-tokens",
    "text": "--text",
    "temperature": "--temperature",
    "seed": "--seed",
}
"""Fields of `Options` and of its `Mix`, and the options that set them."""

ServeLike = Annotated[
    bool,
    typer.Option(
        "--serve-like",
        help="Answer many requests at once, as a server does: throughput and waiting by load.",
        rich_help_panel=_PANEL,
    ),
]
Rates = Annotated[
    list[float] | None,
    typer.Option(
        "--requests-per-second",
        metavar="R",
        help="A load: random (Poisson) arrivals, R a second on average. [repeat]",
        rich_help_panel=_PANEL,
    ),
]
Concurrency = Annotated[
    list[int] | None,
    typer.Option(
        metavar="N",
        help="A load: N requests at a time, each replaced when it ends. [16 and 64; repeat]",
        rich_help_panel=_PANEL,
    ),
]
Requests = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Of each load in each round. [100 for a rate, else four for each at a time]",
        rich_help_panel=_PANEL,
    ),
]
Slots = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="With a rate: the longest requests for which caches have room. [16]",
        rich_help_panel=_PANEL,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Of arrivals, lengths, prompts and sampling. [0]", rich_help_panel=_PANEL
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="T", help="Of the answers; 0 takes the likeliest. [0.8]", rich_help_panel=_PANEL
    ),
]
MessageTokens = Annotated[
    float | None,
    typer.Option(metavar="N", help="Mean length of a message. [69.5]", rich_help_panel=_PANEL),
]
AnswerTokens = Annotated[
    float | None,
    typer.Option(metavar="N", help="Mean length of an answer. [214.5]", rich_help_panel=_PANEL),
]
SystemTokens = Annotated[
    float | None,
    typer.Option(
        metavar="N", help="Mean length of the four system prompts. [480]", rich_help_panel=_PANEL
    ),
]
Text = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Take prompts from this text. [random tokens of the model's vocabulary]",
        rich_help_panel=_PANEL,
    ),
]


def serving_options(machine: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
    """Options from those that were given; the others, None, have their defaults.

    `given` by the names of `Options` and of `Mix`; `text` is a file.
    """
    from alpage.cli.perplexity import read_text

    known = {name: value for name, value in given.items() if value is not None}
    mix = Mix(**{f.name: known.pop(f.name) for f in fields(Mix) if f.name in known})
    for name in ("rates", "together"):
        if name in known:
            known[name] = tuple(known[name])
    if "text" in known:
        known["text"] = read_text(known["text"])
    return Options(**machine, **known, mix=mix)


def measure_serving(options: Options, model: str, settings: Settings, plot: Path | None) -> Report:
    """Check, fetch the model where it is a name, and measure; progress on standard error."""
    check(options)
    if plot is not None:
        check_plotting()
    options = replace(options, model=ready(model, settings))
    check(options)  # a name may have become a folder
    return measure(options, lambda what: note(f"measuring {what}"))


def draw_loads(report: Report, plot: Path | None) -> None:
    """The curve, where one is wanted; last, so that a file that cannot be written loses nothing."""
    if plot is not None:
        draw_curve(report, plot)
        note(f"drawn as {plot}")
