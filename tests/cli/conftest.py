"""The real command line, in processes of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.speaker import write_speaker

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("alpage")

Done = subprocess.CompletedProcess[str]
Alpage = Callable[..., Done]


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment, without settings of ours but the cache's place."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ALPAGE_", "FAKE_PIP"))}
    fixed = {"ALPAGE_HOME": str(home), "TERM": "dumb", "COLUMNS": "100"}
    return kept | fixed | more


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty cache."""
    return tmp_path / "home"


@pytest.fixture
def alpage(home: Path, tmp_path: Path) -> Alpage:
    """Runs `alpage ARGUMENTS`; names but `stdin` and `cwd` are environment variables."""

    def run(*arguments: str | Path, stdin: str | bytes = b"", cwd: Path | None = None,
            **more: str) -> Done:  # fmt: skip
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [PROGRAM, *map(str, arguments)],
            input=data, capture_output=True, cwd=cwd or tmp_path, env=environment(home, **more),
            timeout=120,
        )  # fmt: skip
        out, err = done.stdout.decode(), done.stderr.decode()
        return Done(done.args, done.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers "Hi." to everything."""
    return write_speaker(tmp_path_factory.mktemp("parrot") / "parrot.gguf")
