"""The fuzzer itself: what it must see it sees, and a case's name builds the same case again."""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.fuzz import judge as judging
from tests.fuzz.case import build, parse, text_of
from tests.fuzz.drive import CHECKOUT, Finding, Settings, Tally, run_target, shorten
from tests.fuzz.targets import TARGETS

from alpage.core.errors import FormatError, InternalError


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", TARGETS)
def test_a_name_builds_the_same_case_again(name: str, tmp_path: Path) -> None:
    case = text_of(name, (3, 14, 15))
    assert parse(case) == (name, (3, 14, 15))
    written = []
    for index in range(2):
        folder = tmp_path / str(index)
        folder.mkdir()
        build(TARGETS[name], (3, 14, 15)).write(folder)
        written.append(files_of(folder))
    assert written[0] == written[1]
    assert written[0]


class Bad:
    """A target that does what files must never make the product do."""

    name = "bad"

    def __init__(self, act: Any) -> None:
        self.act = act

    def start(self, dice: Random) -> "Bad":
        return self

    def mutate(self, dice: Random) -> None:
        pass

    def write(self, folder: Path) -> Path:
        (folder / "file").write_bytes(b"x")
        return folder / "file"

    def run(self, path: Path, dice: Random) -> str:
        self.act(path)
        return "fine"


def fail(error: BaseException) -> None:
    raise error


ACTS: dict[str, tuple[Any, str | None]] = {
    "nothing": (lambda path: path.read_bytes(), None),
    "a clear error": (lambda _: fail(FormatError("it is damaged")), None),
    "another exception": (lambda _: fail(KeyError("a")), "KeyError at "),
    "a bug": (lambda _: fail(InternalError("a bug")), "InternalError for a small file"),
    "a long message": (lambda _: fail(FormatError("x" * 9999)), "message of 9,999 characters"),
    "a file": (lambda path: path.with_name("new").write_bytes(b""), "forbidden: open"),
    "a file elsewhere": (lambda _: Path("/etc/hostname").read_bytes(), "forbidden: open"),
    "a removed file": (lambda path: path.unlink(), "forbidden: os.remove"),
    "a process": (lambda _: os.system("true"), "forbidden: os.system"),
    "another process": (lambda _: subprocess.run(["true"]), "forbidden: subprocess.Popen"),
    "code": (lambda _: exec("1"), "forbidden: compile"),
    "a module": (lambda _: __import__("this_is_no_module"), "forbidden: import"),
    "a socket": (lambda _: __import__("socket").socket(), "forbidden: socket.__new__"),
}


PROGRAM = """
import sys
from pathlib import Path
from tests.fuzz import guard, test_harness
guard.install()
act, _ = test_harness.ACTS[sys.argv[1]]
print(test_harness.judging.judge(test_harness.Bad(act), (1,), Path(sys.argv[2])).finding)
"""


@pytest.mark.parametrize("act", ACTS)
def test_what_is_seen(act: str, tmp_path: Path) -> None:
    """In a process of its own: audit hooks stay for good."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, act, str(tmp_path / "case")],
        cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wanted = ACTS[act][1]
    found = done.stdout.strip().splitlines()[-1]
    assert found == "None" if wanted is None else found.startswith(wanted)


def test_time_and_memory_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(_: Path) -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    monkeypatch.setattr(judging, "SECONDS", 0.1)
    assert str(judging.judge(Bad(compute), (1,), tmp_path / "a").finding).startswith("slow: 0.")
    monkeypatch.setattr(judging, "SECONDS", 60)
    # More than whatever this process has held before.
    size = judging._peak() + (100 << 20)
    verdict = judging.judge(Bad(lambda _: b"x" * size), (1,), tmp_path / "b")
    assert str(verdict.finding).startswith("memory: ")


def test_a_dead_worker_is_a_finding_and_its_case_is_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fuzz import drive

    def replayed(case: str, settings: Settings) -> Finding | None:
        return Finding("crash: 7", case, "") if 7 in parse(case)[1] else None

    monkeypatch.setattr(drive, "replay", replayed)
    finding = Finding("crash: 7", "gguf:1.2.7.3", "")
    shorten(finding, Settings(None, tmp_path))
    assert finding.case == "gguf:7"
    tally = Tally("gguf")
    assert tally.found(finding) is finding
    assert tally.found(Finding("crash: 9", "gguf:9", "")) is None
    assert tally.findings[finding.key].count == 2


def test_the_record_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import report

    page, data = tmp_path / "fuzz.md", tmp_path / "fuzz.json"
    page.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "DATA", data)
    tally = Tally("gguf", seconds=2.0)
    tally.add("gguf:1", ["ok finite", 0.5, 10, 20])
    tally.add("gguf:2", ["KeyError", 0.1, 10, 20, "KeyError at x.py:1", "detail"])
    options = argparse.Namespace(inputs=2, seed=1, jobs=1)
    report.write_record([tally], Settings(None, tmp_path), options)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "**2 inputs, 1 findings.**" in text
    assert "| gguf | 2 | 1 | 1 | 0 | 0.50 s | 0 MB | 1 |" in text
    (target,) = json.loads(data.read_text())["targets"]
    assert target["outcomes"] == {"ok finite": 1, "KeyError": 1}
    assert target["findings"][0]["case"] == "gguf:2"


def test_a_cut_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    whole = run_target("weights", 60, Settings(None, tmp_path / "whole"))
    cut = Settings(None, tmp_path / "cut")
    run_target("weights", 25, cut)
    resumed = run_target("weights", 60, replace(cut, resume=True))
    assert (resumed.inputs, resumed.kinds) == (60, whole.kinds)
    assert resumed.outcomes == whole.outcomes
    assert run_target("weights", 25, replace(cut, seed=2, resume=True)).inputs == 25
