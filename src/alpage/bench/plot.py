"""`alpage bench --plot`: how many times better each figure is, as a picture."""

import importlib
import importlib.util
import statistics
from pathlib import Path
from typing import Any

from alpage.bench.report import Report
from alpage.core.errors import UsageError
from alpage.core.paths import atomic_write

OURS, THEIRS, INK = "#1b6b4a", "#a65a2e", "#222222"
DOTS_PER_INCH = 150


def check_plotting() -> None:
    """UsageError with how to install it, where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "--plot needs matplotlib, which is not installed: pip install 'alpage[bench]'"
        )


def draw(report: Report, path: Path) -> None:
    """Write a PNG: a bar for the median ratio of each figure, a line from least to most.

    The report must have a peer. `ResourceError` where the file cannot be written.
    """
    figure_module: Any = importlib.import_module("matplotlib.figure")
    peer = report.peer
    compared = report.compared()
    if peer is None or not compared:
        raise UsageError("nothing of the report was compared with another engine")
    ratios = [measurement.ratios("alpage", peer) for measurement in compared]
    medians = [statistics.median(values) for values in ratios]
    figure = figure_module.Figure(figsize=(9, 1.9 + 0.42 * len(compared)), layout="constrained")
    axes = figure.subplots()
    places = range(len(compared))
    axes.barh(places, medians, color=[OURS if m >= 1 else THEIRS for m in medians], height=0.62)
    for place, values, median in zip(places, ratios, medians, strict=True):
        axes.plot([min(values), max(values)], [place, place], color=INK, linewidth=1)
        label = f"{median:.2f}x"
        axes.annotate(
            label, (max(values), place), (4, 0), textcoords="offset points", va="center",
            bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
        )  # fmt: skip
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_yticks(list(places), [measurement.name for measurement in compared])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"times better than {peer} (median; line: least to most of the runs)")
    axes.set_title(str(report.model["file"]), loc="left")
    figure.text(
        0.995, -0.01, "\n".join(report.context()[0::3]), ha="right", va="top", size=7, color=INK
    )
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
