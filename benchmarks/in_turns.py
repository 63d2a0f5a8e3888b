"""What the benchmarks of single features share: with and without, in turns; a JSON and a page."""

import datetime
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alpage import Llama, __version__
from alpage.bench.machine import others_at_work, this_machine
from alpage.core.paths import atomic_write
from alpage.core.types import Usage

HERE = Path(__file__).parent


@dataclass
class Row:
    """One case: rates (tokens a second) without the feature, and each round's with / without."""

    name: str
    tokens: int = 0
    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    def cells(self) -> str:
        """The last cells of a line of the table: rate, ratio, range."""
        return (
            f"{statistics.median(self.rates):.0f} | **{self.ratio:.2f}x** | "
            f"{min(self.ratios):.2f} to {max(self.ratios):.2f} |"
        )


def take_turns(
    row: Row, rounds: int, with_it: Callable[[], float], without: Callable[[], float]
) -> Row:
    """Fill `row` with the rates (tokens a second) of both, in an order that alternates."""
    with_it(), without()  # warm, and the prompt is in the cache from now on
    for number in range(rounds):
        found = {}
        for call in (with_it, without) if number % 2 else (without, with_it):
            found[call] = call()
        row.ratios.append(found[with_it] / found[without])
        row.rates.append(found[without])
    print(f"{row.name:40} {row.ratio:.3f}x  {min(row.ratios):.2f} to {max(row.ratios):.2f}")
    return row


def decode_rate(usage: Usage) -> float:
    """Tokens a second after the first, by the engine's own clock."""
    return (usage.completion_tokens - 1) / usage.decode_seconds


def record(
    name: str, rounds: int, measure: Callable[[Llama, int], list[Row]]
) -> tuple[list[Row], str]:
    """Measure the default model, write `name`.json; the rows and a line on how they were made."""
    others = others_at_work()
    with Llama.load(pull=True) as llm:
        rows = measure(llm, rounds)
        threads = getattr(llm.engine.runner, "threads", 0)
    report: dict[str, Any] = {
        "command": f"python -m benchmarks.{name} --rounds {rounds}",
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "machine": this_machine().as_json(),
        "threads": threads,
        "rounds": rounds,
        "others": others or 0.0,
        "rows": [asdict(row) for row in rows],
    }
    _write(f"{name}.json", json.dumps(report, indent=1) + "\n")
    return rows, (
        f"`{report['command']}`, {report['date']}, Alpage {__version__}, "
        f"{report['machine']['processor']}, {threads} threads, default model; in turns, median and "
        f"range of {rounds} rounds. Other programs took {report['others']:.0%} of the processors "
        "before the run."
    )


def write_page(name: str, title: str, text: list[str], head: str, lines: list[str]) -> None:
    """Write `name`.md: paragraphs, and one table whose last columns are `Row.cells`."""
    head = f"| {head} | tokens/s without | with, ratio | range |"
    rule = "|---|" + "---:|" * (head.count("|") - 3) + "---|"
    page = [f"# {title}", *text, "\n".join([head, rule, *lines])]
    _write(f"{name}.md", "\n\n".join(page) + "\n")


def _write(name: str, text: str) -> None:
    with atomic_write(HERE / name) as file:
        file.write(text.encode())
