"""The pages `engine.md` and `serving.md` from the reports of `alpage bench --json`.

    python -m benchmarks.render benchmarks/results/*.json

Every figure on a page comes from a report; the newest report stands first, and a table of all
ratios before them. The curves of `serving.md` are drawn beside their reports, as PNG.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from alpage.bench.curve import draw_curve
from alpage.bench.report import Report
from alpage.bench.serve_like import measurement_name
from alpage.bench.traffic import Load
from alpage.core.paths import atomic_write

PAGE = Path(__file__).with_name("engine.md")
HEAD = """# Speed and memory

Made by `python -m benchmarks.render` from the reports in `results/`: do not edit. Speeds are
tokens per second of the forward pass (logits computed, nothing sampled), except where a row says
"through the scheduler". A ratio is the median over rounds that both engines ran in turns; above 1,
Alpage is better. Of llama.cpp's variants (flash attention on or off) the better one counts.

"""


FIGURES = {
    "prefill 128": "prefill 128",
    "prefill 512": "prefill 512",
    "decode": "decode",
    "decode at depth 1,024": "decode at 1,024",
    "decode, 4 together": "4 together",
    "decode, 8 together": "8 together",
    "decode, 16 together": "16 together",
    "process start to first token": "first token",
    "peak resident memory": "memory",
}
"""Names in reports, and in the table of ratios."""


SERVING_PAGE = PAGE.with_name("serving.md")
SERVING_HEAD = """# Many requests at once

Made by `python -m benchmarks.render` from the reports in `results/serving-*.json`, which
`alpage bench --serve-like --against llama.cpp --json FILE` writes: do not edit. How it is measured
stands in [README.md](README.md). A ratio is the median over rounds that both engines ran in turns;
above 1, Alpage is better.

"""
SERVING_FIGURES = {
    "output": "output tokens/s",
    "first token, p50": "first token p50",
    "first token, p95": "first token p95",
    "between tokens, p50": "between tokens p50",
    "between tokens, p95": "between tokens p95",
    "between tokens, p99": "between tokens p99",
}
"""Names in reports, and in the table of ratios."""


def ratios(reports: list[Report]) -> str:
    """For each processor, the last one measured first, a row for each report."""
    newest_first = sorted(reports, key=lambda report: report.date, reverse=True)
    processors = dict.fromkeys(str(report.machine["processor"]) for report in newest_first)
    return "\n\n".join(
        f"### {name}\n\n{_ratios([r for r in reports if r.machine['processor'] == name])}"
        for name in processors
    )


def _ratios(reports: list[Report]) -> str:
    """How many times better Alpage is, a row for each report."""
    lines = [
        f"| file | beside | {' | '.join(FIGURES.values())} |",
        f"| --- | --- |{' ---: |' * len(FIGURES)}",
    ]
    for report in sorted(reports, key=lambda report: (report.peer or "", report.model["file"])):
        found = {measurement.name: measurement for measurement in report.compared()}
        if report.peer is None or not found:
            continue
        isa = report.engines["alpage"]["isa"]
        cells = [
            str(report.model["file"]),
            report.peer + ("" if isa.startswith("avx512") else f", {isa}"),
        ]
        for name in FIGURES:
            values = found[name].ratios("alpage", report.peer) if name in found else []
            cells.append(f"{statistics.median(values):.2f}x" if values else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(reports: list[Report]) -> str:
    """All reports, the newest first."""
    newest_first = sorted(reports, key=lambda report: report.date, reverse=True)
    sections = "\n".join(report.markdown() for report in newest_first)
    return f"{HEAD}## Times better\n\n{ratios(reports)}\n\n## Each run\n\n{sections}"


def serving_page(reports: Sequence[tuple[Report, str | None]]) -> str:
    """Reports of loads with the names of their pictures, the newest first."""
    newest_first = sorted(reports, key=lambda pair: pair[0].date, reverse=True)
    if not newest_first:
        return f"{SERVING_HEAD}Nothing has been measured yet.\n"
    sections = [
        report.markdown() + (f"\n![throughput and waiting by load]({picture})\n" * bool(picture))
        for report, picture in newest_first
    ]
    loads = serving_ratios([report for report, _ in newest_first])
    body = "\n".join(sections)
    return f"{SERVING_HEAD}## Times better\n\n{loads}\n\n## Each run\n\n{body}"


def serving_ratios(reports: Sequence[Report]) -> str:
    """A row for each load of each report."""
    lines = [
        f"| file | load | {' | '.join(SERVING_FIGURES.values())} |",
        f"| --- | --- |{' ---: |' * len(SERVING_FIGURES)}",
    ]
    for report in reports:
        found = {measurement.name: measurement for measurement in report.compared()}
        for load in map(Load.of, report.settings["loads"]):
            cells = [str(report.model["file"]), load.name]
            for figure in SERVING_FIGURES:
                measured = found.get(measurement_name(load, figure))
                values = measured.ratios("alpage", report.peer) if measured and report.peer else []
                cells.append(f"{statistics.median(values):.2f}x" if values else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(files: list[str]) -> None:
    """Read reports, write the pages of those kinds that are among them, and draw the curves."""
    if not files:
        sys.exit("give the JSON files that alpage bench --json wrote")
    engine: list[Report] = []
    serving: list[tuple[Report, str | None]] = []
    for path in map(Path, files):
        report = Report.from_json(path.read_text("utf-8"))
        if report.settings.get("kind") == "serving":
            picture = path.with_suffix(".png")
            draw_curve(report, picture)
            serving.append((report, f"{path.parent.name}/{picture.name}"))
        else:
            engine.append(report)
    if engine:
        _write(PAGE, page(engine))
    if serving:
        _write(SERVING_PAGE, serving_page(serving))


def _write(path: Path, content: str) -> None:
    with atomic_write(path) as file:
        file.write(content.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
