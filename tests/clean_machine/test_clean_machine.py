"""What somebody meets who has Python, a compiler and nothing of ours: every step for real.

The wheel is built from the source archive, installed into an empty virtual environment outside the
checkout, with an empty HOME, and answers a prompt there with the default model.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# Where packages come from is the user's business: pip's own variables and proxies stay.
KEPT = ("PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
ANSWER_TOKENS = 16
# The reference's top two logits are at least 1.0 apart in every step of this answer: no instruction
# set rounds it into another one.
PROMPT = "Name the capital of France."
PYTHON = f"python3.{sys.version_info[1]}"
# The interpreter below that of the test environment, so that nothing is inherited from it.
BASE_PYTHON = Path(sys.base_prefix, "bin", PYTHON)

pytestmark = pytest.mark.timeout(1800)


def clean_environment(home: Path) -> dict[str, str]:
    """An environment with `home` as HOME and temporary folder, and no setting of ours."""
    for folder in (home, home / "tmp"):
        folder.mkdir(exist_ok=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith("PIP_") or name.lower() in PROXIES
    }
    for name in (".config/pip/pip.conf", ".pip/pip.conf"):
        if (Path.home() / name).exists():
            environment.setdefault("PIP_CONFIG_FILE", str(Path.home() / name))
    return environment | {"HOME": str(home), "TMPDIR": str(home / "tmp")}


def run(
    *command: str | Path, env: dict[str, str], cwd: Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run to the end, and show both outputs if it does not exit with `code`."""
    done = subprocess.run(
        [str(part) for part in command],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == code, (
        f"{' '.join(map(str, command))} exited with {done.returncode}, not {code}\n"
        f"--- output\n{done.stdout[-4000:]}\n--- errors\n{done.stderr[-8000:]}"
    )
    return done


class CleanMachine:
    """An empty virtual environment, an empty HOME and an empty working folder."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.home = folder / "home"
        self.cwd = folder / "cwd"
        self.cwd.mkdir()
        self.venv = folder / "venv"
        self.env = clean_environment(self.home)
        run(BASE_PYTHON, "-m", "venv", self.venv, env=self.env, cwd=self.cwd)
        self("python", "-m", "pip", "install", "--quiet", wheel)
        self.installed = {
            package["name"].lower(): package["version"]
            for package in json.loads(self("python", "-m", "pip", "list", "--format=json").stdout)
        }

    def __call__(
        self, name: str, *arguments: str | Path, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        program = self.venv / "bin" / name
        return run(program, *arguments, env=self.env, cwd=self.cwd, code=code)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which `scripts/build` has put a source archive and a wheel."""
    folder = tmp_path_factory.mktemp("dist")
    run(CHECKOUT / "scripts" / "build", folder, env=dict(os.environ), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, built: Path) -> CleanMachine:
    (wheel,) = built.glob("*.whl")
    return CleanMachine(tmp_path_factory.mktemp("machine"), wheel)


def test_the_base_installation_is_small(machine: CleanMachine) -> None:
    assert "alpage" in machine.installed
    assert not {"torch", "transformers", "gguf", "pytest"} & machine.installed.keys()


def test_the_first_answer(machine: CleanMachine) -> None:
    """`alpage run` fetches the default model, answers, and writes in its cache only."""
    options = ("--max-tokens", str(ANSWER_TOKENS), "--temperature", "0")
    # pip has run in this HOME, and so have the programs it asks for their versions (rustc).
    before = {path.name for path in machine.home.iterdir()}
    first = machine("alpage", "run", "smollm2", PROMPT, *options)
    assert first.stdout.strip(), f"no answer; it said {first.stderr}"
    assert "paris" in first.stdout.lower()
    again = machine("alpage", "run", "smollm2", PROMPT, *options)
    assert again.stdout == first.stdout, "temperature 0 gives one answer"

    assert not list(machine.cwd.iterdir())
    assert not list((machine.home / "tmp").iterdir()), "temporary files were left behind"
    cache = Path("Library/Caches" if sys.platform == "darwin" else ".cache")
    ours = {path.name for path in machine.home.iterdir()} - before
    assert ours <= {cache.parts[0]}
    models = list((machine.home / cache / "alpage").rglob("*.gguf"))
    assert len(models) == 1 and models[0].stat().st_size > 90_000_000


def test_the_python_interface(machine: CleanMachine) -> None:
    """Needs the model that `test_the_first_answer` has fetched, or fetches it."""
    program = (
        "from alpage import Llama\n"
        "llm = Llama.load('smollm2')\n"
        "print(llm.generate('Once upon a time', max_tokens=8, temperature=0).text)\n"
        "llm.close()\n"
    )
    assert machine("python", "-c", program).stdout.strip()


def test_wrong_usage_says_so(machine: CleanMachine) -> None:
    """Exit code 2 and one message for a wrong option, 1 for a model that is not there."""
    wrong = machine("alpage", "run", "--no-such-option", "Hi", code=2)
    assert "no-such-option" in wrong.stderr
    missing = machine("alpage", "show", "no-such-model", code=1)
    assert "no-such-model" in missing.stderr and "Traceback" not in missing.stderr


def test_start_in_a_fresh_copy(built: Path, tmp_path: Path) -> None:
    """The README's first command: from the source archive to an answer, from any folder."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(tmp_path, filter="data")
    (copy,) = tmp_path.glob("alpage-*")
    env = clean_environment(tmp_path / "home") | {"PYTHON": str(BASE_PYTHON)}
    start = (copy / "scripts" / "start", PROMPT)
    first = run(*start, "--temperature", "0", "--max-tokens", "16", env=env, cwd=tmp_path)
    assert "paris" in first.stdout.lower()
    assert not (copy / ".venv" / "lib" / PYTHON / "site-packages" / "torch").exists()
    again = run(*start, "--temperature", "0", "--max-tokens", "16", env=env, cwd=tmp_path)
    assert again.stdout == first.stdout
    assert "installing" in first.stderr and "installing" not in again.stderr


def test_without_a_compiler(built: Path, tmp_path: Path) -> None:
    """One clear sentence in what pip prints, instead of a page of CMake."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "uname", "env"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    env = clean_environment(tmp_path / "home") | {"PATH": str(tools)}
    (archive,) = built.glob("*.tar.gz")
    target = tmp_path / "target"
    install = ("-m", "pip", "install", "--no-deps", "--target", target, archive)
    done = run(BASE_PYTHON, *install, env=env, cwd=tmp_path, code=1)
    said = " ".join((done.stdout + done.stderr).split())
    assert "Alpage's core needs a C++20 compiler" in said
    assert "apt install g++" in said and "xcode-select --install" in said
    assert not target.exists()


def test_setup_without_a_compiler(tmp_path: Path) -> None:
    """The script says it before it installs anything; CI=true would install one, so it is unset."""
    shutil.copytree(CHECKOUT / "scripts", tmp_path / "scripts")
    shutil.copytree(CHECKOUT / "native", tmp_path / "native")
    for name in ("pyproject.toml", "CMakeLists.txt"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cat", "cksum", "dirname", "find", "rm", "sed", "sort", "tr"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    (tools / "python3").symlink_to(BASE_PYTHON)
    env = clean_environment(tmp_path / "home") | {"PATH": str(tools)}
    done = run(tmp_path / "scripts" / "setup", env=env, cwd=tmp_path, code=1)
    assert "Alpage's core needs a C++20 compiler" in done.stderr
    assert done.stderr.count("\n") < 10
