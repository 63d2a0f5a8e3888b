"""The core's own tests on emulated 64-bit Arm processors, old and new: the NEON kernels."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "cross-test"
TOOLS_ARE_MISSING = 77


@pytest.mark.timeout(1800)
def test_kernels_on_emulated_arm_processors() -> None:
    """Built once in build/; scripts/cross-test without --quick runs every size."""
    done = subprocess.run([SCRIPT, "--quick"], capture_output=True, text=True, timeout=1700)
    if done.returncode == TOOLS_ARE_MISSING:
        pytest.skip(done.stderr.strip().partition("not cross-tested: ")[2])
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
