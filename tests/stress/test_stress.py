"""The storm of scripts/stress for a few seconds, on the installed core."""

from pathlib import Path
from typing import Any

import pytest
from tests.stress import storm as storms


@pytest.mark.parametrize(("small", "requests"), [(False, 40), (True, 200)])
def test_a_short_storm(smollm2_path: Path, small: bool, requests: int) -> None:
    how: dict[str, Any] = {"threads": 2, "seed": 7, "small": small}
    with storms.opened(smollm2_path, **how) as storm:
        storms.blow(storm, requests, seconds=0, seed=7)
        assert len(storm.ended) == len(storm.asked) >= requests
        counts = storm.counts()
        assert counts["length"] + counts["stop"] > requests / 3, counts
        with storms.opened(smollm2_path, **how, pages=64) as alone:
            assert storms.check(storm, alone, 60, 7) == []
