"""`alpage doctor`: what this machine can do, and what is wrong with it."""

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import typer

from alpage import __version__
from alpage.bench.llamacpp import HOW_TO_INSTALL
from alpage.bench.machine import Machine, this_machine
from alpage.catalogue.entries import CATALOGUE, DEFAULT_MODEL
from alpage.catalogue.listing import list_models
from alpage.cli.options import Json
from alpage.cli.output import megabytes, print_facts, print_json, say
from alpage.cli.progress import download_progress
from alpage.core.errors import AlpageError, UsageError
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.engine.memory import available_memory

_PYTHON = ((3, 11), (3, 13))
_COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` says what to do, where there is something to do."""

    name: str
    state: Literal["ok", "note", "problem"]
    value: str
    advice: str | None = None


Deep = Annotated[
    bool,
    typer.Option("--deep", help="Compute the checksum of every model in the cache again."),
]


def command(deep: Deep = False, json: Json = False) -> None:
    """Check what this machine can do, and what is wrong with it.

    Exit code 1: something is broken.
    """
    findings = list(examine(deep=deep))
    broken = any(finding.state == "problem" for finding in findings)
    if json:
        print_json({"ok": not broken, "findings": [asdict(finding) for finding in findings]})
    else:
        print_facts([(_mark(finding), finding.value) for finding in findings])
        for finding in findings:
            if finding.advice:
                say(f"\n{finding.name} ({finding.state}): {finding.value}\n  {finding.advice}")
        say("\nSomething is broken: see above." if broken else "\nEverything that is needed works.")
    if broken:
        raise typer.Exit(1)


def examine(*, deep: bool = False) -> Iterator[Finding]:
    """Every finding; what one check trips over never keeps the others from running."""
    machine = this_machine()
    settings, wrong = _settings()
    checks: list[Callable[[], Iterator[Finding]]] = [
        _programs,
        lambda: _processor(machine),
        lambda: _native(settings, machine),
        lambda: _memory(machine),
        lambda: iter([wrong]),
        lambda: _cache(settings),
        lambda: _models(settings),
        *([lambda: _deep(settings)] if deep else []),
        _optional,
        _compiler,
    ]
    for check in checks:
        try:
            yield from check()
        except AlpageError as error:
            yield Finding("check", "problem", str(error))


def _settings() -> tuple[Settings, Finding]:
    """The settings, or the defaults and what is wrong with the environment."""
    name = "settings"
    try:
        settings = Settings.from_environment()
    except UsageError as error:
        advice = "Correct or unset that variable; until then no other command runs."
        return Settings(), Finding(name, "problem", str(error), advice)
    given = [
        f"ALPAGE_{part.name.upper()}={getattr(settings, part.name)}"
        for part in fields(Settings)
        if getattr(settings, part.name) != part.default
    ]
    return settings, Finding(name, "ok", ", ".join(given) or "defaults (no ALPAGE_ variable)")


def _programs() -> Iterator[Finding]:
    yield Finding("alpage", "ok", __version__)
    low, high = _PYTHON
    fits = low <= sys.version_info[:2] <= high
    yield Finding(
        "python",
        "ok" if fits else "problem",
        f"{platform.python_version()} ({sys.executable})",
        None if fits else "Alpage supports Python 3.11 to 3.13; install it with one of those.",
    )
    yield Finding("system", "ok", f"{platform.platform()}, {platform.machine()}")


def _processor(machine: Machine) -> Iterator[Finding]:
    cache = f", {machine.last_level_cache} cache" if machine.last_level_cache else ""
    yield Finding("processor", "ok", f"{machine.processor}{cache}")
    usable = machine.usable_processors
    value = f"{usable} of {machine.logical_processors} processors"
    if machine.quota is None or machine.quota >= usable:
        yield Finding("usable", "ok", value)
        return
    yield Finding(
        "usable",
        "note",
        f"{value}, but the container allows the time of {machine.quota:g}",
        "More threads than that wait for one another: set "
        f"ALPAGE_THREADS={max(1, int(machine.quota))}, or raise the container's limit.",
    )


def _native(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """The compiled core: that it loads, computes, and what it uses."""
    try:
        from alpage.engine.native import available_isas, sample_row
    except ImportError as error:
        yield Finding(
            "native core", "problem", f"cannot be loaded: {error}",
            "Install Alpage again (pip install --force-reinstall alpage).",
        )  # fmt: skip
        return
    yield _computes(sample_row)
    yield _instructions(settings.isa, available_isas())
    yield _threads(settings, machine)


def _instructions(forced: str | None, possible: list[str]) -> Finding:
    """The instruction set in use; `possible` has the best one last."""
    name, best = "instructions", possible[-1]
    used = forced or best
    if used not in possible:
        advice = "Unset ALPAGE_ISA: the best one is chosen by itself."
        value = f"ALPAGE_ISA={used}, but this machine runs {', '.join(possible)}"
        return Finding(name, "problem", value, advice)
    value = f"{used}{' (forced by ALPAGE_ISA)' if forced else ''}; possible: {', '.join(possible)}"
    if used != best:
        return Finding(name, "note", value, f"Unset ALPAGE_ISA for more speed: {best} runs here.")
    if used == "scalar":
        advice = "There is no fast path for this processor: answers will be slow."
        return Finding(name, "note", value, advice)
    return Finding(name, "ok", value)


def _computes(
    sample_row: Callable[..., tuple[int, float | None, list[int], list[float]]],
) -> Finding:
    import numpy as np

    logits = np.array([0, 3, 1], np.float32)
    empty = np.empty(0, np.int32)
    options = (0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, empty, np.empty(0, np.float32), 0, 0, -1)
    token = sample_row(logits, empty, 0, *options)[0]
    if token == 1:
        return Finding("native core", "ok", "loads and computes")
    advice = "Install Alpage again; if that changes nothing, please report it."
    return Finding("native core", "problem", f"computes wrongly ({token} is not 1)", advice)


def _threads(settings: Settings, machine: Machine) -> Finding:
    usable, threads = machine.usable_processors, settings.threads or machine.usable_processors
    value = f"{threads}{' (set by ALPAGE_THREADS)' if settings.threads else ''}"
    if threads <= usable:
        return Finding("threads", "ok", value)
    advice = f"Threads would wait for one another: unset ALPAGE_THREADS, or set at most {usable}."
    return Finding("threads", "note", f"{value} on {usable} processors", advice)


def _memory(machine: Machine) -> Iterator[Finding]:
    total, available = machine.memory_bytes, available_memory()
    if available is None:
        yield Finding("memory", "note", "unknown on this system")
        return
    value = f"{megabytes(available)} available"
    value += f" of {megabytes(total)}" if total else ""
    needed = 2 * CATALOGUE[DEFAULT_MODEL].file_bytes
    if available >= needed:
        yield Finding("memory", "ok", value)
        return
    advice = f"Even the default model needs about {megabytes(needed)}: end other programs."
    yield Finding("memory", "problem", value, advice)


def _cache(settings: Settings) -> Iterator[Finding]:
    """The model cache: that files can be written there, and the room that is left."""
    home = cache_home(settings)
    existing = next(path for path in (home, *home.parents) if path.exists())
    note = "" if existing == home else " (made by the first pull)"
    try:
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is a file, not a folder")
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"alpage")
    except OSError as error:
        yield Finding(
            "cache folder", "problem", f"{home}: cannot be written: {error.strerror or error}",
            "Set ALPAGE_HOME to a folder that you may write to, or correct its permissions.",
        )  # fmt: skip
        return
    yield Finding("cache folder", "ok", f"{home}{note}")
    free = shutil.disk_usage(existing).free
    entry = CATALOGUE[DEFAULT_MODEL]
    needed = entry.download_bytes + entry.file_bytes
    if free >= needed:
        yield Finding("free space", "ok", megabytes(free))
        return
    advice = f"Pulling the default model takes {megabytes(needed)}: free some, or set ALPAGE_HOME."
    yield Finding("free space", "note", megabytes(free), advice)


def _models(settings: Settings) -> Iterator[Finding]:
    for model in list_models(cache_home(settings)):
        name = f"model {model.name}"
        if model.state == "damaged":
            # Without a card not even the name is known, so there is nothing to pull.
            advice = f"Get it again: alpage pull {model.name}" if model.card else None
            yield Finding(name, "problem", model.problem or "damaged", advice)
        elif model.state == "installed" and model.card is not None:
            yield Finding(name, "ok", f"installed, {megabytes(model.card.file_bytes)}")
        else:
            size = megabytes(model.download_bytes or 0)
            yield Finding(name, "ok", f"not here yet; alpage pull {model.name} gets it ({size})")


def _deep(settings: Settings) -> Iterator[Finding]:
    """Every checksum of the cache, and what belongs to no model."""
    from alpage.catalogue.check import check_cache  # only here: reads every byte of the cache

    with download_progress("checksums") as progress:
        report = check_cache(cache_home(settings), progress)
    for problem in report.problems:
        state: Literal["note", "problem"] = "problem" if problem.kind == "damaged" else "note"
        size = f" ({megabytes(problem.size)})" if problem.size else ""
        yield Finding(f"cache: {problem.kind}", state, f"{problem.text}{size}", problem.advice)
    damaged = sum(problem.kind == "damaged" for problem in report.problems)
    value = f"{report.files} files, {megabytes(report.size)}: {damaged or 'none'} damaged"
    yield Finding("checksums", "problem" if damaged else "ok", value)


def _optional() -> Iterator[Finding]:
    """Packages that some commands need: missing is no fault."""
    for package, how in (
        ("torch", "pip install 'alpage[train]' for --engine torch"),
        ("llama-cpp-python", f"{HOW_TO_INSTALL} for bench --against llama.cpp"),
    ):
        try:
            yield Finding(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "ok", f"not installed (optional: {how})")


def _compiler() -> Iterator[Finding]:
    """Only for building Alpage from source: a wheel needs none."""
    path = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if path is None:
        yield Finding("C++ compiler", "ok", "none found (needed only to build from source)")
        return
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20)
        version = (done.stdout or done.stderr).partition("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        version = f"does not run: {error}"
    yield Finding("C++ compiler", "ok", f"{Path(path).name}: {version}")


def _mark(finding: Finding) -> str:
    sign = {"ok": " ", "note": "i", "problem": "!"}[finding.state]
    return f"{sign} {finding.name}"
