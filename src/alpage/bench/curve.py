"""`alpage bench --serve-like --plot`: throughput and latency against load, as a picture."""

import importlib
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpage.bench.plot import DOTS_PER_INCH, INK, OURS, THEIRS
from alpage.bench.report import Measurement, Report
from alpage.bench.serve_like import measurement_name
from alpage.bench.traffic import Load
from alpage.core.errors import UsageError
from alpage.core.paths import atomic_write

_PANELS = (
    ("output, tokens/s", ("output",), 1),
    ("first token, ms", ("first token, p50", "first token, p95"), 1000),
    (
        "between tokens, ms",
        ("between tokens, p50", "between tokens, p95", "between tokens, p99"),
        1000,
    ),
)
"""Label of a row of the picture, its figures, and what their values are multiplied by."""
_STYLES = {"p50": ("-", "o"), "p95": ("--", "s"), "p99": (":", "^")}
"""Line and marker of each percentile."""
_COLUMNS = {"rate": "requests a second (open loop)", "together": "requests together (closed loop)"}


def draw_curve(report: Report, path: Path) -> None:
    """Write a PNG: medians against load, with bars from the least to the most of the rounds.

    Open and closed loops have a column each. `ResourceError` where the file cannot be written.
    """
    if report.settings.get("kind") != "serving":
        raise UsageError("this report has no loads: it is not one of alpage bench --serve-like")
    figure = curve(report)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")


def curve(report: Report) -> Any:
    """The picture as a figure of matplotlib."""
    loads = [Load.of(values) for values in report.settings["loads"]]
    kinds = [kind for kind in _COLUMNS if any(load.kind == kind for load in loads)]
    figure_module: Any = importlib.import_module("matplotlib.figure")
    figure = figure_module.Figure(figsize=(2.0 + 4.2 * len(kinds), 8.4), layout="constrained")
    grid = figure.subplots(len(_PANELS), len(kinds), squeeze=False, sharex="col", sharey="row")
    found = {measurement.name: measurement for measurement in report.measurements}
    for column, kind in enumerate(kinds):
        own = [load for load in loads if load.kind == kind]
        for row, (label, names, scale) in enumerate(_PANELS):
            _draw_panel(grid[row][column], own, names, found, list(report.engines), scale)
            if column == 0:
                grid[row][column].set_ylabel(label)
        _label_loads(grid[-1][column], own, _COLUMNS[kind])
    grid[0][0].set_ylim(bottom=0)  # last: it fixes the top, which the columns share
    _finish(figure, report)
    return figure


def _draw_panel(
    axes: Any,
    loads: Sequence[Load],
    names: Sequence[str],
    found: dict[str, Measurement],
    engines: Sequence[str],
    scale: float,
) -> None:
    for engine in engines:
        for name in names:
            rounds = [found[measurement_name(load, name)].best(engine) for load in loads]
            middle = [scale * statistics.median(values) for values in rounds]
            below = [m - scale * min(v) for m, v in zip(middle, rounds, strict=True)]
            above = [scale * max(v) - m for m, v in zip(middle, rounds, strict=True)]
            line, marker = _STYLES.get(name.rpartition(" ")[2], ("-", "o"))
            axes.errorbar(
                [load.value for load in loads], middle, yerr=[below, above],
                color=OURS if engine == "alpage" else THEIRS,
                linestyle=line, marker=marker, markersize=4,
                capsize=2, linewidth=1.4, elinewidth=0.8,
            )  # fmt: skip
    if len(names) > 1:
        ticker: Any = importlib.import_module("matplotlib.ticker")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _label_loads(axes: Any, loads: Sequence[Load], label: str) -> None:
    """A tick at each load, on an axis of doublings where they are far apart."""
    values = [load.value for load in loads]
    if max(values) > 4 * min(values):
        axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_xlabel(label)


def _finish(figure: Any, report: Report) -> None:
    """Title, legend, and what machine it was."""
    lines: Any = importlib.import_module("matplotlib.lines")
    entries = [
        lines.Line2D([], [], color=OURS if engine == "alpage" else THEIRS, linewidth=3,
                     label="Alpage" if engine == "alpage" else engine)
        for engine in report.engines
    ]  # fmt: skip
    entries += [
        lines.Line2D([], [], color=INK, linestyle=line, marker=marker, markersize=4, label=name)
        for name, (line, marker) in _STYLES.items()
    ]
    figure.legend(
        handles=entries, title=str(report.model["file"]), title_fontsize="large",
        alignment="left", loc="outside upper left", ncols=len(entries), frameon=False,
    )  # fmt: skip
    figure.text(
        0.995, -0.01, "\n".join(report.context()[0::3]), ha="right", va="top", size=7, color=INK
    )
