"""Runs the cases of one target, one after the other, and writes what came of each to a file.

The process may die in the middle, which is what it is for: the driver reads the last lines, and
starts another one behind the case that killed it.

Lines: `< name` a case begins; `> ...` (JSON) it ended. `+` (JSON) is a new entry of the corpus.
"""

import argparse
import faulthandler
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from random import Random
from typing import IO, Any

from tests.fuzz.case import Chain, Target, parse, text_of

MOST_ROUNDS = 10
MOST_ENTRIES = 3000


def load_core(path: Path) -> None:
    """Use the compiled core in `path` (one with sanitizers) in place of the installed one."""
    import alpage

    spec = importlib.util.spec_from_file_location("alpage._native", path)
    assert spec is not None and spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    sys.modules["alpage._native"] = core
    alpage._native = core


class Corpus:
    """Cases that had an outcome of their own; new cases are made by a further round on one."""

    def __init__(self, entries: list[tuple[Chain, str, str]]) -> None:
        self.known = {(outcome, shape) for _, outcome, shape in entries}
        self.chains = [chain for chain, _, _ in entries]
        self.weights = [self._weight(outcome) for _, outcome, _ in entries]

    def next(self, dice: Random) -> Chain:
        """A new case."""
        number = dice.getrandbits(32)
        if not self.chains or dice.random() < 0.3:
            return (number,)
        (parent,) = dice.choices(self.chains, self.weights)
        return (*parent[: MOST_ROUNDS - 1], number)

    def add(self, chain: Chain, outcome: str, shape: str) -> bool:
        """Keep a case whose outcome is new."""
        if (outcome, shape) in self.known or len(self.chains) >= MOST_ENTRIES:
            return False
        self.known.add((outcome, shape))
        self.chains.append(chain)
        self.weights.append(self._weight(outcome))
        return True

    @staticmethod
    def _weight(outcome: str) -> float:
        return 6.0 if outcome.startswith("ok") else 1.0


def main() -> None:
    """Run the cases that the command line asks for."""
    parser = argparse.ArgumentParser()
    for name in ("--target", "--core", "--log", "--folder", "--corpus", "--only"):
        parser.add_argument(name, default="")
    for name in ("--seed", "--first", "--count"):
        parser.add_argument(name, type=int, default=0)
    options = parser.parse_args()
    if options.core:
        load_core(Path(options.core))
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # What is imported late, on the way to an error, is imported now: the guard reports imports.
    import encodings.unicode_escape
    import encodings.utf_16
    import encodings.utf_32

    import jinja2.debug
    import numpy as np
    from tests.fuzz import guard
    from tests.fuzz.targets import TARGETS

    assert encodings.unicode_escape and encodings.utf_16 and encodings.utf_32 and jinja2.debug
    np.seterr(all="ignore")  # warnings of odd numbers would fill the log
    guard.install()
    target = TARGETS[options.target]
    folder = Path(options.folder).resolve()
    with Path(options.log).open("a", buffering=1) as log:
        _warm_up(target, folder)
        if options.only:
            _only(target, options.only, folder, log)
        else:
            _many(target, options, folder, log)


def _warm_up(target: Target, folder: Path) -> None:
    """Valid cases first: what is imported lazily is imported now."""
    from tests.fuzz.judge import judge

    for number in range(3):
        verdict = judge(target, (), folder)
        if number and (verdict.finding or not verdict.outcome.startswith("ok")):
            raise SystemExit(f"the valid input of {target.name} fails: {verdict}")


def _only(target: Target, names: str, folder: Path, log: IO[str]) -> None:
    for name in names.split(","):
        _one(target, parse(name)[1], folder, log)


def _many(target: Target, options: Any, folder: Path, log: IO[str]) -> None:
    entries = []
    if options.corpus and Path(options.corpus).exists():
        for line in Path(options.corpus).read_text("utf-8").splitlines():
            chain, outcome, shape = json.loads(line)
            entries.append((tuple(chain), outcome, shape))
    corpus = Corpus(entries)
    for number in range(options.first, options.first + options.count):
        chain = corpus.next(Random(f"{options.seed} {target.name} {number}"))
        outcome, shape = _one(target, chain, folder, log)
        if corpus.add(chain, outcome, shape):
            log.write("+ " + json.dumps([chain, outcome, shape]) + "\n")


def _one(target: Target, chain: Chain, folder: Path, log: IO[str]) -> tuple[str, str]:
    from tests.fuzz.judge import judge

    log.write(f"< {text_of(target.name, chain)}\n")
    verdict = judge(target, chain, folder)
    ended: list[Any] = [verdict.outcome, round(verdict.seconds, 4), verdict.grown, verdict.size]
    if verdict.finding:
        ended += [verdict.finding, verdict.detail]
    log.write("> " + json.dumps(ended) + "\n")
    return verdict.outcome, verdict.shape


if __name__ == "__main__":
    main()
