"""The program as a whole: help, version, what it loads, and tables on a terminal."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Alpage, environment
from tests.cli.terminal import terminal

import alpage as package
from alpage.cli.app import VERBS, main

HEAVY = {"numpy", "torch", "tokenizers", "fastapi", "uvicorn", "jinja2", "alpage.llama", "rich"}


def test_help_and_version(alpage: Alpage) -> None:
    for option in ("--help", "-h"):
        done = alpage(option)
        assert (done.returncode, done.stderr) == (0, "")
        for verb, summary in VERBS.items():
            assert verb in done.stdout and summary in done.stdout
    assert alpage("--version").stdout == f"alpage {package.__version__}\n"
    bare = alpage()
    assert bare.returncode == 2 and "Usage: alpage" in bare.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr()
    assert f"Usage: alpage {verb}" in said.out and said.err == ""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"]])
def test_help_is_light(home: Path, arguments: list[str]) -> None:
    """What only a verb needs is not loaded without one."""
    code = (
        "import sys\nfrom alpage.cli import main\n"
        f"main({arguments})\nprint('loaded:', *{HEAVY} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env=environment(home), check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_on_a_terminal(home: Path) -> None:
    with terminal("list", home=home) as shell:
        assert shell.exit_code() == 0
    assert "smollm2" in shell.text and "\x1b[1m" in shell.text, "the head is bold"
    with terminal("show", home=home, kind="dumb") as shell:
        assert shell.exit_code() == 0
    assert "Apache-2.0" in shell.text and "\x1b" not in shell.text
    with terminal("--help", home=home) as shell:
        assert shell.exit_code() == 0
    assert "perplexity" in shell.text


def test_an_old_encoding(alpage: Alpage, parrot: Path) -> None:
    """What standard output cannot write becomes a question mark, not an error."""
    done = alpage("run", parrot, "Grüße", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.stdout, done.returncode) == ("Hi.\n", 0)
    refused = alpage("run", "./gr\u00fc\u00dfe.gguf", "Hi", PYTHONIOENCODING="ascii")
    assert "gr??e.gguf" in refused.stderr
    assert refused.returncode == 1
