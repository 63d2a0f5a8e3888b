"""Measured figures: what they are, how they compare, and how they are shown and kept."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from alpage.core.errors import FormatError

FORMAT = 1
FEWEST_RUNS = 5
"""A median of fewer is for orientation only."""

Unit = Literal["tokens/s", "GB/s", "%", "s", "MiB", "requests"]
_NOT_COMPARED = ("%", "requests")
_MORE_IS_BETTER = ("tokens/s", "GB/s", "%")
Values = dict[str, list[float]]  # variant of an engine -> one value for each round


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure of one or two engines: the same rounds, taken in turns."""

    name: str
    unit: Unit
    engines: dict[str, Values]

    def best_variant(self, engine: str) -> str:
        """The variant of `engine` whose median is the better one."""
        values = self.engines[engine]
        pick = max if self.unit in _MORE_IS_BETTER else min
        return pick(values, key=lambda variant: statistics.median(values[variant]))

    def best(self, engine: str) -> list[float]:
        """Values of the better variant, by round."""
        return self.engines[engine][self.best_variant(engine)]

    def median(self, engine: str) -> float:
        """Median of the better variant."""
        return statistics.median(self.best(engine))

    def ratios(self, engine: str, peer: str) -> list[float]:
        """How many times better `engine` is than `peer`'s better variant, round by round."""
        pairs = zip(self.best(engine), self.best(peer), strict=True)
        if self.unit in _MORE_IS_BETTER:
            return [own / other for own, other in pairs]
        return [other / own for own, other in pairs]


@dataclass(frozen=True, slots=True)
class Report:
    """One run of `alpage bench`."""

    date: str
    """ISO 8601, UTC."""
    command: str
    model: Mapping[str, Any]
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    engines: Mapping[str, Any]
    """Facts by engine: version, build, threads. Alpage comes first."""
    measurements: Sequence[Measurement]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def peer(self) -> str | None:
        """The engine that Alpage was compared with."""
        others = [name for name in self.engines if name != "alpage"]
        return others[0] if others else None

    def compared(self) -> list[Measurement]:
        """The figures that have a ratio: those of both engines, but neither shares nor counts."""
        return [
            m for m in self.measurements if self.peer in m.engines and m.unit not in _NOT_COMPARED
        ]

    def to_json(self) -> str:
        """Everything, with the medians and ratios that `table` shows."""
        values = asdict(self)
        for found, measurement in zip(values["measurements"], self.measurements, strict=True):
            found |= self._summary(measurement)
        return json.dumps({"format": FORMAT, **values}, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; FormatError for anything else."""
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise FormatError(f"the report is not of format {FORMAT}, which this version reads")
            measured = [
                Measurement(found["name"], found["unit"], found["engines"])
                for found in values.pop("measurements")
            ]
            return cls(**values, measurements=measured)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"this is no report of alpage bench: {error!r}") from error

    def table(self) -> list[list[str]]:
        """Header and rows of text: figure, medians, ratio with its range."""
        peer, compared = self.peer, self.compared()
        rows = [["", "Alpage", *([peer, "times better (range)"] if peer else [])]]
        for measurement in self.measurements:
            row = [measurement.name]
            row += [
                _with_unit(measurement.median(e), measurement.unit) for e in measurement.engines
            ]
            if peer and measurement in compared:
                ratios = measurement.ratios("alpage", peer)
                ratio = f"{statistics.median(ratios):.2f}x"
                row += [f"{ratio} ({min(ratios):.2f} - {max(ratios):.2f})"]
            rows.append(row + [""] * (len(rows[0]) - len(row)))
        return rows

    def markdown(self) -> str:
        """The same as a section of a Markdown page."""
        header, *rows = self.table()
        beside = f" beside {self.peer}" if self.peer else ""
        isa = self.engines["alpage"].get("isa", "")
        lines = [f"### {self.model['file']}{beside}, {isa}, {self.date[:10]}", ""]
        lines += [f"- {line}" for line in self.context()]
        lines += [f"- command: `{self.command}`", "", _markdown_row(header)]
        lines += [_markdown_row(["---", *["---:"] * (len(header) - 1)])]
        lines += [_markdown_row(row) for row in rows]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def context(self) -> list[str]:
        """Lines of text that belong above the table: machine, engines, how it was measured."""
        machine, settings = self.machine, self.settings
        memory = machine["memory_bytes"]
        parts = [
            str(machine["processor"]),
            f"{machine['usable_processors']} processors",
            str(machine["last_level_cache"] or ""),
            f"{memory / 2**30:.0f} GiB" if memory else "",
            str(machine["system"]),
            str(machine["python"]),
        ]
        engines = [_engine_line(name, facts) for name, facts in self.engines.items()]
        how = f"{settings['threads']} threads, medians of {settings['runs']} runs taken in turns"
        return [", ".join(part for part in parts if part), *engines, how]

    def _summary(self, measurement: Measurement) -> dict[str, Any]:
        medians = {name: measurement.median(name) for name in measurement.engines}
        best = {name: measurement.best_variant(name) for name in measurement.engines}
        summary: dict[str, Any] = {"median": medians, "counted_variant": best}
        if self.peer in measurement.engines:
            summary["ratio"] = statistics.median(measurement.ratios("alpage", self.peer))
        return summary


def _engine_line(name: str, facts: Mapping[str, Any]) -> str:
    if name == "alpage":
        return f"Alpage {facts['version']}, {facts['isa']}"
    return f"{name}: {facts['version']}; {facts['build']}"


def _with_unit(value: float, unit: Unit) -> str:
    if unit == "s":
        return f"{value * 1000:,.0f} ms"
    digits = 1 if value < 100 and unit in ("tokens/s", "GB/s", "requests") else 0
    if unit == "requests":
        return f"{value:,.{digits}f}"
    return f"{value:,.{digits}f}{'' if unit == '%' else ' '}{unit}"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
