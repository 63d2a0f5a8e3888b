"""The record of a long run: benchmarks/fuzz.md for people, fuzz.json for programs."""

import argparse
import dataclasses
import datetime
import json
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.drive import CHECKOUT, Settings, Tally

PAGE = CHECKOUT / "benchmarks" / "fuzz.md"
DATA = CHECKOUT / "benchmarks" / "fuzz.json"
BEGIN, END = "<!-- run: written by scripts/fuzz -->\n", "<!-- end of run -->"


def write_record(tallies: Sequence[Tally], settings: Settings, options: argparse.Namespace) -> None:
    """Put the figures of a run between the marks of the page, and all of them into the data."""
    page = PAGE.read_text("utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} lacks its marks")
    PAGE.write_text(before + BEGIN + _text(tallies, settings, options) + END + after, "utf-8")
    data = {
        "date": datetime.date.today().isoformat(),
        "command": _command(options),
        "machine": _machine(),
        "sanitizers": settings.core is not None,
        "targets": [_plain(tally) for tally in tallies],
    }
    DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", "utf-8")


def _plain(tally: Tally) -> dict[str, Any]:
    findings = [dataclasses.asdict(finding) for finding in tally.findings.values()]
    return {**vars(tally), "outcomes": dict(tally.outcomes), "findings": findings}


def _command(options: argparse.Namespace) -> str:
    return f"scripts/fuzz --inputs {options.inputs} --seed {options.seed} --jobs {options.jobs}"


def _machine() -> str:
    lines = []
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return f"{name or platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def _text(tallies: Sequence[Tally], settings: Settings, options: argparse.Namespace) -> str:
    inputs = sum(tally.inputs for tally in tallies)
    seconds = sum(tally.seconds for tally in tallies)
    found = sum(len(tally.findings) for tally in tallies)
    built = "AddressSanitizer and UndefinedBehaviorSanitizer" if settings.core else "no sanitizers"
    lines = [
        f"**{inputs:,} inputs, {found} findings.** {datetime.date.today().isoformat()}, "
        f"`{_command(options)}`, {_machine()}; core built with {built}; "
        f"{inputs / max(seconds, 1e-9):,.0f} inputs a second and process.",
        "",
        "| target | inputs | opened and ran | refused | kinds of outcome | slowest | "
        "most memory | findings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for tally in tallies:
        ran = sum(n for name, n in tally.outcomes.items() if name.startswith("ok"))
        lines.append(
            f"| {tally.target} | {tally.inputs:,} | {ran:,} | {tally.inputs - ran:,} | "
            f"{tally.kinds:,} | {tally.slowest:.2f} s | {tally.most_grown / 1e6:.0f} MB | "
            f"{len(tally.findings)} |"
        )
    classes: Counter[str] = Counter()
    for tally in tallies:
        for name, count in tally.outcomes.items():
            classes[name.split(" ")[0]] += count
    lines += [
        "",
        "Outcomes: " + ", ".join(f"{n} {c:,}" for n, c in classes.most_common()) + ".",
        "",
    ]
    for tally in tallies:
        for finding in tally.findings.values():
            lines.append(f"- {tally.target}: {finding.what} (`{finding.case}`, {finding.count}x)")
    return "\n".join(lines).rstrip() + "\n"
