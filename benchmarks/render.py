"""The page `engine.md` from the reports of `alpage bench --json`.

    python -m benchmarks.render benchmarks/results/*.json

Every figure on the page comes from a report; the newest report stands first.
"""

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


def page(reports: list[Report]) -> str:
    """All reports, the newest first."""
    newest_first = sorted(reports, key=lambda report: report.date, reverse=True)
    return HEAD + "\n".join(report.markdown() for report in newest_first)


def main(files: list[str]) -> None:
    """Read reports, write the page."""
    if not files:
        sys.exit("give the JSON files that alpage bench --json wrote")
    content = page([Report.from_json(Path(file).read_text("utf-8")) for file in files])
    with atomic_write(PAGE) as file:
        file.write(content.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
