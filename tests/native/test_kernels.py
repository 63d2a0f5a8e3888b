"""The core's own tests, in C++: every kernel without Python in between."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = CHECKOUT / "build" / "kernel_tests"


def cmake(*arguments: str | Path) -> None:
    """The machine's CMake, or the one that scripts/setup has installed where there is none."""
    program = shutil.which("cmake") or str(Path(sys.executable).parent / "cmake")
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"


@pytest.mark.timeout(1800)
def test_kernels() -> None:
    """Built once in build/; scripts/sanitize runs the same under sanitizers."""
    cmake("-S", CHECKOUT, "-B", BUILD, "-DALPAGE_PYTHON=OFF", "-DALPAGE_TESTS=ON")
    cmake("--build", BUILD, "--parallel", "2")
    done = subprocess.run([BUILD / "kernel_tests"], capture_output=True, text=True, timeout=900)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
