"""The page `engine.md` from the reports of `alpage bench --json`.

    python -m benchmarks.render benchmarks/results/*.json

Every figure on the page comes from a report; the newest report stands first, and a table of all
ratios before them.
"""

import statistics
import sys
from pathlib import Path

from alpage.bench.report import Report
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


def ratios(reports: list[Report]) -> str:
    """A row for each report: how many times better Alpage is."""
    lines = [
        f"| file | beside | {' | '.join(FIGURES.values())} |",
        f"| --- | --- |{' ---: |' * len(FIGURES)}",
    ]
    for report in sorted(reports, key=lambda report: (report.peer or "", report.model["file"])):
        found = {measurement.name: measurement for measurement in report.compared()}
        if report.peer is None or not found:
            continue
        isa = report.engines["alpage"]["isa"]
        cells = [str(report.model["file"]), report.peer + (f", {isa}" if isa != "avx512" else "")]
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


def main(files: list[str]) -> None:
    """Read reports, write the page."""
    if not files:
        sys.exit("give the JSON files that alpage bench --json wrote")
    content = page([Report.from_json(Path(file).read_text("utf-8")) for file in files])
    with atomic_write(PAGE) as file:
        file.write(content.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
