"""docs/formats.md is what scripts/formats_table.py writes, and every test in it exists."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_table_of_formats_is_up_to_date() -> None:
    command = [sys.executable, str(CHECKOUT / "scripts" / "formats_table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
