"""The page `server.md` from `overload.json` and `http.json`:  python -m benchmarks.server_page."""

import json
import statistics
from pathlib import Path
from typing import Any

from alpage.bench.report import Report
from alpage.core.paths import atomic_write

PAGE = Path(__file__).with_name("server.md")
OVERLOAD = PAGE.with_name("overload.json")
HTTP = PAGE.with_name("http.json")
HEAD = """# The server under load

Made by `python -m benchmarks.server_page` from `http.json`
(`alpage bench --serve-like --against http`) and `overload.json`
(`python -m benchmarks.overload --record`): do not edit.
"""


def page(overload: dict[str, Any], http: Report) -> str:
    """The whole page."""
    return "\n".join([HEAD, added(http), overloaded(overload), kept(overload), shared(overload)])


def added(report: Report) -> str:
    """What HTTP adds to the engine."""
    assert report.peer is not None
    rates = [m for m in report.measurements if m.name.endswith(": output")]
    rows = []
    for measurement in rates:
        ratios = measurement.ratios("alpage", report.peer)
        times = [f"{100 * (ratio - 1):.1f} %" for ratio in (min(ratios), max(ratios))]
        median = 100 * (statistics.median(ratios) - 1)
        load = measurement.name.removesuffix(": output")
        rows.append(f"| {load} | {median:.1f} % | {times[0]} to {times[1]} |")
    return f"""## What HTTP adds

The same requests, in turns, asked of the engine in its own process and of `alpage serve` over
HTTP, a stream for each; the client counts events and reads nothing else, but takes its time from
the same two processors. Goal: at most 5 % more time at 64 streams. So many answers are a
crowd, whose events come a fifth of a second apart with two or three tokens each: of the times
between tokens half are 0, and the others as long as that.

| load | more time for the same output | rounds |
| --- | ---: | ---: |
{chr(10).join(rows)}

{report.markdown()}"""


def overloaded(found: dict[str, Any]) -> str:
    """Ten times more requests than can be answered."""
    part, capacity = found["overload"], found["capacity_requests_per_second"]
    first, refused = part["first_event_seconds"], part["refusal_seconds"]
    machine = f"{found['machine']['processor']}, {found['machine']['usable_processors']} processors"
    memory = " and ".join(f"{megabytes:g}" for megabytes in part["resident_megabytes"])
    reasons = ", ".join(f"{n} {reason}" for reason, n in part["finish_reasons"].items())
    return f"""## Overload

- {machine}, {found["date"]}
- command: `{found["command"].strip()}`

Chats of about 50 tokens and 24 more. The server answers {capacity:g} a second, 16 at a time,
and gets {part["times"]:g} times as many for {part["seconds"]:g} seconds, in an open loop.
At most 32 wait.

| | |
| --- | ---: |
| answered to the end | {part["answered"]:,} ({reasons}) |
| refused with 503 and `retry-after` | {part["refused"]:,} |
| anything else: other statuses, broken streams, streams without a finish reason | {_faults(part)} |
| first event of those answered, p50 / p95 / longest | {_seconds(first)} |
| time to a refusal, p50 / p95 / longest | {_seconds(refused)} |
| resident memory, least and most | {memory} MB |
"""


def kept(found: dict[str, Any]) -> str:
    """Memory after many requests."""
    rows = "\n".join(
        f"| {int(count):,} | {megabytes:g} MB |"
        for count, megabytes in found["memory_after_requests_megabytes"].items()
    )
    return f"""## Memory

Right after that, 16 at a time. The cache of keys and values, which keeps beginnings of prompts
until it is full, is the largest part.

| requests | resident memory |
| ---: | ---: |
{rows}
"""


def shared(found: dict[str, Any]) -> str:
    """One key beside another that floods."""
    part = found["fairness"]
    alone, beside = part["alone"]["first_event_seconds"], part["beside"]["first_event_seconds"]
    return f"""## One key beside another

One key has {part["flood"]} requests under way all the time, the other asks one at a time. Seconds
to the first event, p50 / p95 / longest.

| | |
| --- | ---: |
| alone | {_seconds(alone)} |
| beside the flood | {_seconds(beside)} |
| the flooding key itself | {_seconds(part["flood_first_event_seconds"])} |
"""


def _faults(part: dict[str, Any]) -> str:
    faults = part["faults"]
    return ", ".join(f"{n} {what}" for what, n in faults.items()) if faults else "0"


def _seconds(spread: dict[str, float]) -> str:
    return " / ".join(f"{spread[name]:.2f}" for name in ("p50", "p95", "most")) + " s"


def write() -> None:
    """Make the page anew."""
    overload = json.loads(OVERLOAD.read_text("utf-8"))
    http = Report.from_json(HTTP.read_text("utf-8"))
    with atomic_write(PAGE) as file:
        file.write(page(overload, http).encode())


if __name__ == "__main__":
    write()
