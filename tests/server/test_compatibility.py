"""docs/compatibility.md is what scripts/compatibility_table.py writes of the tests' marks."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def test_the_page_is_up_to_date() -> None:
    command = [sys.executable, str(CHECKOUT / "scripts" / "compatibility_table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
