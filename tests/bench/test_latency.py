"""What is made of the times at which tokens came."""

import pytest

from alpage.bench.latency import UNITS, Answer, figures, percentile
from alpage.bench.traffic import Load, TimedRequest

REQUESTS = [TimedRequest(0, [5] * 10, 3, 0), TimedRequest(0, [5] * 20, 2, 0)]


def test_percentiles_lie_between_the_nearest_values() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([1, 2], 50) == 1.5
    assert percentile([0, 10, 20, 30], 95) == pytest.approx(28.5)
    assert percentile(list(range(101)), 99) == 99
    assert percentile([7], 95) == 7


def test_the_open_loop_counts_to_the_last_answer() -> None:
    answers = [Answer(0.0, [1.0, 1.5, 4.0]), Answer(0.5, [2.5, 3.0])]
    found = figures(Load("rate", 1, slots=2, requests=2), REQUESTS, answers)
    assert set(found) == set(UNITS)
    assert found["output"] == 5 / 4
    assert found["prompts and output"] == 35 / 4
    assert found["first token, p50"] == 1.5  # 1.0 and 2.0
    assert found["between tokens, p50"] == 0.5  # every gap: 0.5, 0.5, 2.5
    assert found["between tokens, p95"] == pytest.approx(2.3)
    assert found["waiting for the first token, mean"] == 3 / 4
    assert found["waiting for the first token, most"] == 2
    assert found["finished"] == 2


def test_the_closed_loop_counts_while_requests_are_replaced() -> None:
    """One at a time: from the end of the first to the start of the third."""
    answers = [Answer(0.0, [1.0, 1.5, 2.0]), Answer(2.0, [2.5, 4.0]), Answer(4.0, [9.0, 10.0, 12])]
    requests = [*REQUESTS, TimedRequest(0, [5] * 40, 3, 0)]
    found = figures(Load("together", 1, slots=1, requests=3), requests, answers)
    assert found["output"] == 2 / 2
    assert found["prompts and output"] == 22 / 2
    assert found["finished"] == 1
    assert found["first token, p50"] == pytest.approx((0.5 + 5) / 2)
    assert found["between tokens, p50"] == 1.5  # 1.5, 1, 2
    assert found["waiting for the first token, mean"] == 0.5 / 2
    assert found["waiting for the first token, most"] == 1
