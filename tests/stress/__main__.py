"""`python -m tests.stress`: the long run on a core with sanitizers (scripts/stress)."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz.worker import load_core

from alpage.catalogue.pull import pull
from alpage.core.paths import cache_home
from alpage.core.settings import Settings


def main() -> int:
    """Run and print; 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="scripts/stress", description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=300, help="at least")
    parser.add_argument("--compare", type=int, default=60, help="answers run again alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--small", action="store_true", help="few random weights instead of the default model's"
    )
    parser.add_argument("--core", type=Path, help="the core built with sanitizers")
    options = parser.parse_args()
    if options.core is not None:
        load_core(options.core)
    from tests.stress import storm as storms  # what imports the core comes after it

    path, seed = pull("smollm2", cache_home(Settings())), options.seed
    began = time.monotonic()
    how: dict[str, Any] = {"threads": options.threads, "seed": seed, "small": options.small}
    with storms.opened(path, **how) as storm:
        storms.blow(storm, options.requests, options.seconds, seed)
        seconds = time.monotonic() - began
        print(f"{len(storm.asked)} requests in {seconds:.0f} s: {dict(storm.counts())}", flush=True)
        with storms.opened(path, **how, pages=64) as alone:
            wrong = storms.check(storm, alone, options.compare, seed)
    for line in wrong:
        print(line)
    print(f"{options.compare} answers compared with the request alone, {len(wrong)} findings")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
