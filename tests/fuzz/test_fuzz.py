"""20,000 hostile inputs with fixed seeds, on every run; `scripts/fuzz` gives 1,000,000.

They run on the installed core: one with sanitizers takes minutes to compile. Where scripts/fuzz has
built that one already, `TEST_FUZZ_CORE` and `TEST_FUZZ_PRELOAD` may name it and its libraries.
"""

import os
from pathlib import Path

import pytest
from tests.fuzz.drive import Finding, Settings, run_target
from tests.fuzz.targets import TARGETS, shares

INPUTS = 20_000
SHARES = shares([*TARGETS], INPUTS)


def said(findings: dict[str, Finding]) -> str:
    """What is wrong, and how to see it again."""
    return "\n\n".join(
        f"{finding.what} ({finding.count}x)\nreplay: scripts/fuzz --replay {finding.case}\n"
        f"{finding.detail[-2000:]}"
        for finding in findings.values()
    )


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_inputs_end_with_a_model_or_one_clear_error(name: str, tmp_path: Path) -> None:
    core = os.environ.get("TEST_FUZZ_CORE")
    preload = os.environ.get("TEST_FUZZ_PRELOAD", "")
    settings = Settings(Path(core) if core else None, tmp_path, preload=preload)
    tally = run_target(name, SHARES[name], settings)
    assert not tally.findings, said(tally.findings)
    assert tally.inputs == SHARES[name]
    # A fuzzer whose inputs all fail alike, or all open, looks at nothing.
    opened = sum(count for word, count in tally.outcomes.items() if word.startswith("ok"))
    assert tally.inputs // 100 < opened < tally.inputs * 0.999
    assert tally.kinds >= 10
