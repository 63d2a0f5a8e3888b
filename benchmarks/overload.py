"""What a server does with far more requests than it can answer, and what it keeps of them.

    python -m benchmarks.overload [--seconds 120] [--times 10] [--requests 3000] [--record]

Starts `alpage serve` with the default model. First it measures how many requests a second the
server can answer (a closed loop), then asks `--times` as many in an open loop for `--seconds`, and
`--requests` one after the other, 16 at a time, for the memory that each leaves behind. At last one
key asks 64 at a time while another asks now and then: how long does that one wait?
Every answer is followed to its end: it is whole with a finish reason, or refused with status 503
and a `retry-after`; whatever else happens is counted as a fault, and makes the exit code 1.
"""

import argparse
import asyncio
import contextlib
import datetime
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from alpage.bench.machine import this_machine
from alpage.server.accounts import Accounts
from benchmarks import server_page

TOGETHER = 16
_ANSWER_TOKENS = 24
_FLOOD, _FLOOD_SECONDS, _ASKED = 64, 10.0, 20
"""Requests of the flooding key at a time, its head start, and requests of the other key."""
_PATIENCE = 120.0
"""Seconds that a client waits for anything to happen."""


@dataclass
class Outcomes:
    """What became of requests. `first`: seconds to the first event of those that were answered."""

    ends: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    retry_after: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        """Answers that are whole."""
        return sum(self.ends.values())

    def as_json(self) -> dict[str, Any]:
        """Counts and percentiles."""
        return {
            "answered": self.answered,
            "finish_reasons": dict(self.ends),
            "refused": self.refused,
            "retry_after": dict(self.retry_after),
            "faults": dict(self.faults),
            "first_event_seconds": _spread(self.first),
            "refusal_seconds": _spread(self.refusals),
        }


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    places = {"p50": 0.5, "p95": 0.95, "most": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[int(last * place)], 4) for name, place in places.items()}


@contextlib.contextmanager
def serving(arguments: list[str]) -> Iterator[tuple[str, int]]:
    """`alpage serve` with the default model: where it answers, and the number of its process."""
    code = "import sys; from alpage.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--port", "0", "--json", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        yield started["url"], process.pid
    finally:
        process.terminate()
        process.wait(60)


async def ask(
    client: httpx.AsyncClient, number: int, outcomes: Outcomes, tokens: int = _ANSWER_TOKENS
) -> None:
    """One conversation, followed to its end."""
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": f"Tell me something about the number {number}."}],
        "max_tokens": tokens,
        "seed": number,
        "stream": True,
    }
    began = time.perf_counter()
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                _note_refusal(response, time.perf_counter() - began, outcomes)
                return
            outcomes.first.append(time.perf_counter() - began)
            events = [e async for e in response.aiter_lines() if e.startswith("data: ")]
        _note_end(events, outcomes)
    except httpx.HTTPError as error:
        outcomes.faults[f"{type(error).__name__}"] += 1


def _note_refusal(response: httpx.Response, seconds: float, outcomes: Outcomes) -> None:
    after = response.headers.get("retry-after")
    if response.status_code == 503 and after is not None:
        outcomes.refused += 1
        outcomes.refusals.append(seconds)
        outcomes.retry_after[after] += 1
    else:
        outcomes.faults[f"status {response.status_code}"] += 1


def _note_end(events: list[str], outcomes: Outcomes) -> None:
    if not events or events[-1] != "data: [DONE]":
        last = events[-1] if events else "nothing"
        outcomes.faults[f"a stream ended with {last:.80}"] += 1
        return
    choices = [c for e in events[:-1] for c in json.loads(e[6:]).get("choices", ())]
    reasons = [c["finish_reason"] for c in choices if c["finish_reason"]]
    if len(reasons) == 1:
        outcomes.ends[reasons[0]] += 1
    else:
        outcomes.faults[f"finish reasons: {reasons}"] += 1


async def closed_loop(url: str, requests: int, together: int) -> tuple[Outcomes, float]:
    """So many requests, `together` at a time: what became of them, and requests a second."""
    outcomes = Outcomes()
    left = iter(range(requests))
    limits = httpx.Limits(max_connections=together)
    began = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE, limits=limits) as client:

        async def one_after_the_other() -> None:
            for number in left:
                await ask(client, number, outcomes)

        await asyncio.gather(*(one_after_the_other() for _ in range(together)))
    return outcomes, outcomes.answered / (time.perf_counter() - began)


async def open_loop(url: str, rate: float, seconds: float) -> Outcomes:
    """Poisson arrivals at `rate` a second, whatever the server answers."""
    outcomes, drawn = Outcomes(), random.Random(0)
    tasks: set[asyncio.Task[None]] = set()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE, limits=limits) as client:
        began = time.perf_counter()
        at, number = 0.0, 0
        while at < seconds:
            await asyncio.sleep(max(0.0, at - (time.perf_counter() - began)))
            task = asyncio.create_task(ask(client, number, outcomes))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            at, number = at + drawn.expovariate(rate), number + 1
        await asyncio.gather(*tasks)
    return outcomes


async def fairness(url: str, flooding: str, other: str) -> dict[str, Any]:
    """Seconds to the first event for one key, alone and while another floods the server."""
    alone, beside, flood = Outcomes(), Outcomes(), Outcomes()
    headers = [{"authorization": f"Bearer {secret}"} for secret in (flooding, other)]
    limits = httpx.Limits(max_connections=_FLOOD)
    async with (
        httpx.AsyncClient(
            base_url=url, timeout=_PATIENCE, limits=limits, headers=headers[0]
        ) as many,
        httpx.AsyncClient(base_url=url, timeout=_PATIENCE, headers=headers[1]) as single,
    ):

        async def keep_asking() -> None:
            for number in itertools.count():
                await ask(many, number, flood, 4 * _ANSWER_TOKENS)

        for number in range(_ASKED):
            await ask(single, number, alone)
        crowd = [asyncio.create_task(keep_asking()) for _ in range(_FLOOD)]
        await asyncio.sleep(_FLOOD_SECONDS)
        for number in range(_ASKED):
            await ask(single, _ASKED + number, beside)
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    return {
        "flood": _FLOOD,
        "alone": alone.as_json(),
        "beside": beside.as_json(),
        "flood_first_event_seconds": _spread(flood.first),
    }


def resident_bytes(process: int) -> int:
    """Memory that a process has in use (Linux)."""
    text = Path(f"/proc/{process}/status").read_text("ascii")
    line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def _watch(process: int, seen: list[int]) -> None:
    while True:
        seen.append(resident_bytes(process))
        await asyncio.sleep(1)


async def measure(url: str, process: int, options: argparse.Namespace) -> dict[str, Any]:
    """All three parts."""
    _, capacity = await closed_loop(url, 6 * TOGETHER, TOGETHER)
    seen: list[int] = []
    watching = asyncio.create_task(_watch(process, seen))
    flood = await open_loop(url, options.times * capacity, options.seconds)
    watching.cancel()
    steps = [0, options.requests // 4, options.requests // 2, options.requests]
    kept: dict[str, float] = {}
    faults: Counter[str] = Counter()
    for before, after in itertools.pairwise(steps):
        outcomes, _ = await closed_loop(url, after - before, TOGETHER)
        faults += outcomes.faults
        faults["refused"] += outcomes.refused
        kept[str(after)] = round(resident_bytes(process) / 1e6, 1)
    ready = httpx.get(f"{url}/health", timeout=_PATIENCE).status_code
    return {
        "capacity_requests_per_second": round(capacity, 2),
        "overload": {
            "times": options.times,
            "seconds": options.seconds,
            **flood.as_json(),
            "resident_megabytes": [round(min(seen) / 1e6, 1), round(max(seen) / 1e6, 1)],
        },
        "memory_after_requests_megabytes": kept,
        "faults_of_those": {name: count for name, count in faults.items() if count},
        "health_at_the_end": ready,
    }


def main() -> int:
    """Measure, print, and say by the exit code whether anything but answers and refusals came."""
    parser = argparse.ArgumentParser(description="An alpage server under ten times its load.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--record", action="store_true", help="write overload.json and server.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/accounts.db"
        with serving(["--queue", "32", "--database", database]) as (url, process):
            assert urlsplit(url).hostname == "127.0.0.1"
            found = asyncio.run(measure(url, process, options))
            with Accounts(database) as accounts:
                secrets = [accounts.create_key(name)[1] for name in ("flooding", "other")]
            time.sleep(2)  # until the server has read them
            found["fairness"] = asyncio.run(fairness(url, *secrets))
    found |= {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python -m benchmarks.overload " + " ".join(sys.argv[1:]),
        "machine": this_machine().as_json(),
    }
    print(json.dumps(found, indent=1))
    if options.record:
        server_page.OVERLOAD.write_text(f"{json.dumps(found, indent=1)}\n", "utf-8")
        server_page.write()
    parts = [found["overload"], found["fairness"]["alone"], found["fairness"]["beside"]]
    bad = any(part["faults"] for part in parts) or found["faults_of_those"]
    return 1 if bad or found["health_at_the_end"] != 200 else 0


if __name__ == "__main__":
    sys.exit(main())
