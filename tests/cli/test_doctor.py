"""`alpage doctor`: a sound machine, and each thing that can be broken."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alpage.bench.machine import Machine, this_machine
from alpage.cli import doctor, main
from alpage.cli.doctor import Finding, examine


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPAGE_HOME", str(tmp_path / "home"))


def found(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_a_sound_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "Everything that is needed works." in text
    assert "native core" in text
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    names = [finding["name"] for finding in report["findings"]]
    assert len(set(names)) == len(names)
    assert {"python", "processor", "memory", "cache folder", "model smollm2", "torch"} <= set(names)


def test_settings_that_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALPAGE_THREAD", "2")
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "unknown setting ALPAGE_THREAD; did you mean ALPAGE_THREADS?" in text
    assert "Correct or unset that variable" in text
    assert "Something is broken" in text


def test_settings_that_are_right_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPAGE_ISA", "scalar")
    assert "ALPAGE_ISA=scalar" in found("settings").value
    finding = found("instructions")
    assert finding.value.startswith("scalar (forced by ALPAGE_ISA)")
    assert finding.state == "note"


def test_an_instruction_set_that_this_machine_lacks() -> None:
    finding = doctor._instructions("avx512", ["scalar", "avx2"])
    assert finding.state == "problem"
    assert finding.value == "ALPAGE_ISA=avx512, but this machine runs scalar, avx2"
    assert doctor._instructions(None, ["scalar", "avx2"]).state == "ok"
    assert doctor._instructions(None, ["scalar"]).advice is not None


def test_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPAGE_THREADS", "1000")
    finding = found("threads")
    assert finding.state == "note"
    assert finding.value.startswith("1000 (set by ALPAGE_THREADS) on ")


def test_a_container_that_allows_less(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_machine()
    small = Machine(
        "Cpu", "x86_64", 8, 8, 1.5, None, here.memory_bytes, here.system, here.python
    )  # fmt: skip
    monkeypatch.setattr(doctor, "this_machine", lambda: small)
    finding = found("usable")
    assert finding.value == "8 of 8 processors, but the container allows the time of 1.5"
    assert finding.advice is not None
    assert "ALPAGE_THREADS=1" in finding.advice


def test_a_cache_folder_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "file"
    place.write_text("x")
    monkeypatch.setenv("ALPAGE_HOME", str(place))
    finding = found("cache folder")
    assert finding.state == "problem"
    assert finding.advice is not None
    assert "Set ALPAGE_HOME" in finding.advice


def test_a_damaged_model(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models" / "smollm2"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"bytes": 98362432, "pulled": "2026-01-01"}')
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    finding = found("model smollm2")
    assert finding.state == "problem"
    assert "is damaged" in finding.value
    assert finding.advice == "Get it again: alpage pull smollm2"


def test_an_installed_model(
    smollm2_path: Path, alpage_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPAGE_HOME", str(alpage_home))
    assert found("model smollm2").value == "installed, 98.4 MB"


def test_a_native_core_that_cannot_be_loaded(tmp_path: Path) -> None:
    """In a process of its own, where the compiled module is out of reach."""
    code = (
        "import sys; sys.modules['alpage._native'] = None\n"
        "from alpage.cli import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "cannot be loaded" in done.stdout
    assert "Install Alpage again" in done.stdout
    assert "cache folder" in done.stdout  # the other checks still ran


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 50_000_000)
    finding = found("memory")
    assert finding.state == "problem"
    assert finding.value.startswith("50.0 MB available of ")
