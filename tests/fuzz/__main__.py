"""`python -m tests.fuzz`: the long run, its record, and the replay of one case (scripts/fuzz)."""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.drive import CHECKOUT, Settings, Tally, keep, replay, run_target
from tests.fuzz.report import write_record
from tests.fuzz.targets import TARGETS, shares


def main() -> int:
    """Run, print and record; 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs over all targets")
    parser.add_argument("--target", nargs="*", choices=[*TARGETS], default=[*TARGETS])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0, help="stop after this time")
    parser.add_argument("--jobs", type=int, default=1, help="targets that run at a time")
    parser.add_argument("--nice", type=int, default=10)
    parser.add_argument("--resume", action="store_true", help="go on where a cut run ended")
    parser.add_argument("--replay", help="one case, as a finding names it")
    parser.add_argument("--record", action="store_true", help="write benchmarks/fuzz.md")
    parser.add_argument("--core", type=Path, help="the core built with sanitizers")
    parser.add_argument("--preload", default="", help="the sanitizers' libraries")
    options = parser.parse_args()
    scratch = CHECKOUT / "build" / "fuzz" / "run"
    settings = Settings(
        options.core, scratch, options.seed, options.nice, options.preload, options.resume
    )
    if options.replay:
        finding = replay(options.replay, settings)
        print(f"{finding.what}\n{finding.detail}" if finding else "nothing is wrong with this case")
        return int(finding is not None)
    deadline = time.monotonic() + options.seconds if options.seconds else 0
    counts = shares(options.target, options.inputs)

    def run(name: str) -> Tally:
        return _said(run_target(name, counts[name], settings, deadline=deadline))

    with ThreadPoolExecutor(options.jobs) as pool:
        tallies = list(pool.map(run, counts))
    for tally in tallies:
        keep(iter(tally.findings.values()), CHECKOUT / "build" / "fuzz" / "findings")
    if options.record:
        write_record(tallies, settings, options)
    return int(any(tally.findings for tally in tallies))


def _said(tally: Tally) -> Tally:
    rate = tally.inputs / max(tally.seconds, 1e-9)
    print(
        f"{tally.target}: {tally.inputs:,} inputs, {rate:,.0f} a second, {tally.kinds} kinds of "
        f"outcome, slowest {tally.slowest:.2f} s, most memory {tally.most_grown / 1e6:.0f} MB, "
        f"{len(tally.findings)} findings",
        flush=True,
    )
    for finding in tally.findings.values():
        print(
            f"  {finding.what} ({finding.count}x)\n    replay: scripts/fuzz --replay "
            f"{finding.case}",
            flush=True,
        )
    return tally


if __name__ == "__main__":
    sys.exit(main())
