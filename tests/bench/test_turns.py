"""Workers in processes of their own: turns, errors, and programs that fail."""

import sys
import tempfile
from pathlib import Path

import pytest

from alpage.bench import start, turns
from alpage.bench.cases import Case
from alpage.bench.turns import Worker, measure_case, measure_loading, time_to_output, workers
from alpage.bench.worker import Job
from alpage.core.errors import InternalError, NotFoundError, UserError

CASES = [Case("prefill", 20), Case("decode", 3, depth=20, sequences=2), Case("engine", 4)]


def job(model: Path, engine: str = "alpage") -> Job:
    return Job(engine, str(model), 1, None, CASES)


def test_a_job_survives_the_command_line() -> None:
    assert Job.of(job(Path("a b.gguf")).to_json()) == job(Path("a b.gguf"))


def test_alpage_measures_what_it_is_asked(smollm2_path: Path) -> None:
    with workers([job(smollm2_path)]) as (side,):
        loading = measure_loading([side], 2)
        assert loading.unit == "s"
        assert len(loading.best("alpage")) == 2
        assert loading.median("alpage") > 0
        assert side.facts["threads"] == 1
        for case in CASES:
            found = measure_case([side], case, 2)
            assert found.name == case.name
            assert len(found.best("alpage")) == 2
            assert min(found.best("alpage")) > 0


def test_engines_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of measurements, and the first round that does not count."""
    told: list[str] = []

    class Recording(Worker):
        def __init__(self, engine: str, variants: tuple[str, ...]) -> None:
            self.engine, self.variants = engine, variants
            self.rounds = 0

        def prepare(self, case: Case) -> None:
            told.append(f"{self.engine} prepares")

        def run(self, case: Case, variant: str) -> float:
            told.append(f"{self.engine}{variant}")
            self.rounds += 1
            return float(self.rounds)

    sides = [Recording("alpage", ("",)), Recording("peer", ("+", "-"))]
    found = measure_case(sides, Case("decode", 3), 2)
    assert told == ["alpage prepares", "peer prepares"] + 3 * ["alpage", "peer+", "peer-"]
    assert found.engines == {"alpage": {"": [2, 3]}, "peer": {"+": [3, 5], "-": [4, 6]}}
    alone = measure_case(sides, Case("engine", 3), 1)
    assert list(alone.engines) == ["alpage"]  # the peer has no scheduler of ours


def test_errors_of_a_worker_keep_their_kind(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with workers([job(broken)]) as (side,), pytest.raises(UserError, match=r"broken\.gguf"):
        side.load()
    with workers([job(tmp_path / "none.gguf")]) as (side,), pytest.raises(NotFoundError):
        side.load()


def test_a_worker_that_dies_is_reported_with_its_last_words(smollm2_path: Path) -> None:
    with workers([job(smollm2_path, engine="alpage")]) as (side,):
        side._process.kill()
        side._process.wait()
        side._log.write(b"out of luck")
        with pytest.raises(InternalError, match=r"alpage ended with code -9: out of luck"):
            side.load()


def test_no_worker_outlives_an_error(smollm2_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workers([job(smollm2_path)]) as (side,):
        raise KeyboardInterrupt
    assert side._process.poll() is not None


def test_an_engine_may_be_a_program_of_its_own(tmp_path: Path) -> None:
    """As benchmarks/openvino_side.py is."""
    program = tmp_path / "engine.py"
    program.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    answer = {'seconds': 0.5, 'variants': ['a', 'b'], 'facts': {'version': '1'}}\n"
        "    if asked['do'] == 'run':\n"
        "        answer = {'rate': asked['case']['tokens'] + (asked['variant'] == 'b')}\n"
        "    print(json.dumps(answer), flush=True)\n"
    )
    with workers([("other", [sys.executable, str(program)])]) as (side,):
        assert side.load() == 0.5
        assert side.facts == {"version": "1"}
        found = measure_case([side], Case("decode", 7), 2)
    assert found.engines == {"other": {"a": [7, 7], "b": [8, 8]}}
    assert found.median("other") == 8


def test_time_to_output_is_that_of_the_first_byte() -> None:
    code = "import time; print('a', flush=True); time.sleep(0.5); print('b')"
    ended = time_to_output([sys.executable, "-c", code])
    assert ended.output.split() == ["a", "b"]
    assert 0 < ended.first < ended.end
    with pytest.raises(InternalError, match=r"failed \(3\): why"):
        time_to_output([sys.executable, "-c", "import sys; sys.stderr.write('why'); sys.exit(3)"])
    with pytest.raises(InternalError, match="it said nothing"):
        time_to_output([sys.executable, "-c", "pass"])


def test_measured_programs_find_their_modules_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As installed ones do, whatever the environment of the benchmark says; nothing is left."""
    (tmp_path / "measured.py").write_text("")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = "import os, measured; print(os.path.exists(measured.__cached__), measured.__cached__)"
    with turns._compiled_modules() as environment:
        ended = time_to_output([sys.executable, "-c", code], environment)
    written, path = ended.output.split(maxsplit=1)
    assert written == "True"
    assert not Path(path.strip()).exists()
    assert [file.name for file in tmp_path.iterdir()] == ["measured.py"]


def test_starting_a_program_and_the_command(smollm2_path: Path, tmp_path: Path) -> None:
    found = turns.measure_starts(["alpage"], str(smollm2_path), 1, 1)
    assert [measurement.name for measurement in found] == [
        "process start to first token",
        "process start to first token, alpage run",
        "peak resident memory",
    ]
    assert all(measurement.median("alpage") > 0 for measurement in found)
    assert 90 < found[2].median("alpage") < 1000  # MiB; the file alone has 94
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nsleep 0.1\necho "$1 $3 $4" && echo "$@" > "$0.said"\n')
    program.chmod(0o755)
    found = turns.measure_starts(["alpage"], str(smollm2_path), 1, 1, program)
    whole = found[2]
    assert whole.name == "process start to end, one token"
    assert whole.median("alpage") >= found[1].median("alpage")
    assert whole.median("llama.cpp") >= 0.1
    assert (tmp_path / "program.said").read_text() == f"-m {smollm2_path} -n 1 {start.PROMPT}\n"


def test_peak_memory_is_that_of_this_process() -> None:
    before = start.peak_memory()
    block = bytearray(200 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert start.peak_memory() >= before
    assert start.peak_memory() >= 200 << 20


def test_the_last_words_are_the_end() -> None:
    with tempfile.TemporaryFile() as log:
        log.write(b"a" * 5000 + b"end")
        assert turns._last_words(log).endswith("aend")
        assert len(turns._last_words(log)) == 2000
