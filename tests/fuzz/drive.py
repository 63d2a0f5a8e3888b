"""Runs workers over all targets, survives their crashes, and gathers what was found."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.case import Chain, parse, text_of

CHECKOUT = Path(__file__).resolve().parents[2]
HANG = 60.0
"""Seconds on the clock without an end of a case: ten times the limit, for busy machines."""
WORKER_MEMORY = 2 << 30
"""Resident bytes of a worker at which it is stopped, before the machine suffers."""
CHUNK = 5_000
"""Cases of one process; what came of them is kept on disk, for a run that is cut and resumed."""
_MOST_FINDINGS = 200


@dataclass
class Finding:
    """One kind of failure: the first case that showed it, made shorter where that is possible."""

    what: str
    case: str
    detail: str
    count: int = 1

    @property
    def key(self) -> str:
        """Findings of one key are one kind."""
        return "".join(letter for letter in self.what if not letter.isdigit())[:100]


@dataclass
class Tally:
    """What came of the cases of one target."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_case: str = ""
    most_grown: int = 0
    kinds: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, case: str, ended: list[Any]) -> Finding | None:
        """Count one case; returns its finding, if it is the first of its kind."""
        outcome, seconds, grown, _size = ended[:4]
        self.inputs += 1
        self.outcomes[outcome] += 1
        if seconds > self.slowest:
            self.slowest, self.slowest_case = seconds, case
        self.most_grown = max(self.most_grown, grown)
        return self.found(Finding(ended[4], case, ended[5])) if len(ended) > 4 else None

    def found(self, finding: Finding) -> Finding | None:
        """Note a finding; returns it if it is the first of its kind."""
        known = self.findings.get(finding.key)
        if known is not None:
            known.count += 1
            return None
        self.findings[finding.key] = finding
        return finding


@dataclass(frozen=True)
class Settings:
    """How workers run. `core`: the compiled core with sanitizers, or None for the installed one."""

    core: Path | None
    scratch: Path
    seed: int = 1
    niceness: int = 0
    preload: str = ""
    resume: bool = False
    """Go on behind what an earlier run of the same seed left in `scratch`."""


def run_target(name: str, count: int, settings: Settings, *, deadline: float = 0) -> Tally:
    """Run `count` cases of a target, fewer when the clock passes `deadline`."""
    corpus, kept = settings.scratch / f"{name}.corpus", settings.scratch / f"{name}.json"
    tally = _kept(kept, settings) or Tally(name)
    if not tally.inputs:
        corpus.unlink(missing_ok=True)
    number, before, start = tally.inputs, tally.seconds, time.monotonic()
    while number < count and len(tally.findings) < _MOST_FINDINGS:
        left = deadline - time.monotonic() if deadline else 1e9
        if left <= 0:
            break
        chunk = min(CHUNK if left > 1e8 else 2000, count - number)
        arguments = ["--first", str(number), "--count", str(chunk), "--corpus", str(corpus)]
        ended = _worker(name, arguments, settings)
        for case, result in ended.cases:
            tally.add(case, result)
        number += len(ended.cases)
        with corpus.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in ended.corpus)
        if ended.died is not None:
            if not ended.last:
                raise RuntimeError(f"a worker of {name} does not start:\n{ended.died[1]}")
            tally.inputs += 1
            tally.outcomes["crash"] += 1
            tally.found(Finding(ended.died[0], ended.last, ended.died[1]))
            number += 1
        tally.seconds = before + time.monotonic() - start
        counted = {"seed": settings.seed, "tally": vars(tally)}
        kept.write_text(json.dumps(counted, default=vars), "utf-8")
    tally.kinds = len(corpus.read_text("utf-8").splitlines()) if corpus.exists() else 0
    for finding in tally.findings.values():
        shorten(finding, settings)
    return tally


def _kept(path: Path, settings: Settings) -> Tally | None:
    """What an earlier run of the same seed counted, where the run is a resumed one."""
    if not settings.resume or not path.exists():
        return None
    kept = json.loads(path.read_text("utf-8"))
    if kept["seed"] != settings.seed:
        return None
    tally = Tally(**kept["tally"])
    tally.outcomes = Counter(tally.outcomes)
    tally.findings = {key: Finding(**finding) for key, finding in kept["tally"]["findings"].items()}
    return tally


def replay(case: str, settings: Settings) -> Finding | None:
    """Run one case in a process of its own."""
    ended = _worker(parse(case)[0], ["--only", case], settings)
    if ended.died is not None:
        return Finding(ended.died[0], case, ended.died[1])
    (_, result) = ended.cases[0]
    return Finding(result[4], case, result[5]) if len(result) > 4 else None


def shorten(finding: Finding, settings: Settings) -> None:
    """Leave out rounds of mutation as long as the same is found."""
    target, chain = parse(finding.case)
    at = 0
    while at < len(chain) and len(chain) > 1:
        shorter: Chain = (*chain[:at], *chain[at + 1 :])
        again = replay(text_of(target, shorter), settings)
        if again is not None and again.key == finding.key:
            chain = shorter
            finding.case, finding.detail = again.case, again.detail
        else:
            at += 1


@dataclass
class _Ended:
    cases: list[tuple[str, list[Any]]]
    corpus: list[str]
    last: str
    died: tuple[str, str] | None


def _worker(target: str, arguments: list[str], settings: Settings) -> _Ended:
    """One process from start to end."""
    settings.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_memory_folder(), prefix="alpage-fuzz-") as folder:
        log, said = Path(folder) / "log", Path(folder) / "stderr"
        command = [sys.executable, "-m", "tests.fuzz.worker", "--target", target]
        command += ["--log", str(log), "--folder", f"{folder}/case", "--seed", str(settings.seed)]
        if settings.core is not None:
            command += ["--core", str(settings.core)]
        with said.open("wb") as errors:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=CHECKOUT, env=_environment(settings), stdout=errors, stderr=errors,
                preexec_fn=lambda: os.nice(settings.niceness),
            )  # fmt: skip
            stopped = _wait(process, log)
        ended = _read_log(log)
        if process.returncode or stopped:
            text = said.read_text("utf-8", "replace")
            ended.died = (stopped or _reason(process.returncode, text), text[-6000:])
        return ended


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait for the end; a worker that stands still or swells is asked where it is, and killed."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
            return ""
        why = ""
        if log.exists() and time.time() - log.stat().st_mtime > HANG:
            why = "hang"
        elif _resident(process.pid) > WORKER_MEMORY:
            why = "memory: the worker was stopped"
        if why:
            process.send_signal(signal.SIGUSR1)
            time.sleep(1)
            process.kill()
            process.wait()
            return why


def _resident(process: int) -> int:
    """Resident bytes of a process; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _read_log(log: Path) -> _Ended:
    ended = _Ended([], [], "", None)
    for line in log.read_text("utf-8").splitlines() if log.exists() else []:
        if line.startswith("< "):
            ended.last = line[2:]
        elif line.startswith("> "):
            ended.cases.append((ended.last, json.loads(line[2:])))
        elif line.startswith("+ "):
            ended.corpus.append(line[2:])
    return ended


def _reason(code: int, text: str) -> str:
    """The one line of a dead process's last words that says why."""
    marks = ("ERROR: AddressSanitizer", "runtime error:", "Fatal Python error", "Error:")
    for mark in marks:
        for line in text.splitlines():
            if mark in line:
                return "crash: " + line[line.find(mark) :][:120]
    return f"crash: exit status {code}"


def _environment(settings: Settings) -> dict[str, str]:
    environment = dict(os.environ)
    environment.update(
        PYTHONPATH=str(CHECKOUT), PYTHONHASHSEED="0", TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", RUST_BACKTRACE="0",
    )  # fmt: skip
    if settings.core is not None:
        # The quarantine of freed memory is kept small: growth is measured.
        environment["ASAN_OPTIONS"] = (
            "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096:"
            "quarantine_size_mb=16:handle_abort=1"
        )
        environment["UBSAN_OPTIONS"] = "print_stacktrace=1"
        environment["LD_PRELOAD"] = settings.preload
    return environment


def _memory_folder() -> str | None:
    """A file system in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def keep(findings: Iterator[Finding], folder: Path) -> None:
    """Write the inputs of findings into `folder`, one folder a case."""
    from tests.fuzz.case import build
    from tests.fuzz.targets import TARGETS

    for finding in findings:
        name, chain = parse(finding.case)
        place = folder / finding.case.replace(":", "-")[:100]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        build(TARGETS[name], chain).write(place)
        (place / "finding.txt").write_text(f"{finding.what}\n{finding.case}\n\n{finding.detail}\n")
