"""What a machine says about itself."""

import subprocess
import sys
from pathlib import Path
from time import process_time

import pytest

from alpage.bench import machine
from alpage.bench.machine import Times


def test_times_of_the_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = {"/proc/stat": "cpu  100 20 30 400 50 6 7 8 0 0\ncpu0 1 2 3"}
    monkeypatch.setattr(machine, "_read", lambda path: read.get(path.as_posix(), ""))
    assert machine.processor_times() == Times(used=171, stolen=8, total=621)
    before, after = Times(171, 8, 621), Times(271, 33, 821)
    assert machine.stolen_share(before, after) == 0.25
    assert machine.stolen_share(before, before) is None
    assert machine.stolen_share(None, after) is None
    read.clear()
    assert machine.processor_times() is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell")
def test_a_busy_program_is_seen() -> None:
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = process_time()
        others = machine.others_at_work(1.0)
        assert process_time() - before < 0.5
    finally:
        program.kill()
        program.wait()
    assert others is not None
    assert others > 0.3
