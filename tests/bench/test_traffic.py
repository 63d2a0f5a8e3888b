"""Requests: when they come, how long they are, what they share; the same from the same seed."""

from collections import Counter

import numpy as np
import pytest

from alpage.bench import traffic
from alpage.bench.traffic import Load, Mix, TimedRequest, Traffic, from_text, from_vocabulary
from alpage.core.errors import InputError

IDS = np.arange(100, 1100, dtype=np.int32)
OPEN = Load("rate", 4.0, slots=16, requests=2000)
CLOSED = Load("together", 8, slots=8, requests=400)


def drawn(load: Load, round_number: int = 1, seed: int = 7) -> list[TimedRequest]:
    return Traffic(Mix(), from_vocabulary(IDS), seed, [1]).requests(load, round_number)


def test_arrivals_are_a_poisson_process() -> None:
    times = traffic.arrivals(np.random.default_rng(3), 4.0, 20_000)
    gaps = np.diff(times)
    assert times[0] == 0
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() == pytest.approx(0.25, rel=0.03)  # an exponential distribution's is its mean
    # Counts of one second: mean and variance are both the rate.
    counts = np.bincount(times.astype(int))[:-1]
    assert counts.mean() == pytest.approx(4, rel=0.03)
    assert counts.var() == pytest.approx(4, rel=0.08)


def test_the_seed_and_the_round_decide_everything() -> None:
    assert drawn(OPEN) == drawn(OPEN)
    assert drawn(OPEN) != drawn(OPEN, seed=8)
    assert drawn(OPEN)[5].prompt != drawn(OPEN, round_number=2)[5].prompt
    slower = Load("rate", 2.0, slots=16, requests=2000)
    assert drawn(slower)[5].at != drawn(OPEN)[5].at


def test_the_closed_loop_has_no_times() -> None:
    assert {request.at for request in drawn(CLOSED)} == {0}
    assert (CLOSED.together, OPEN.together) == (8, None)
    assert (CLOSED.name, OPEN.name) == ("8 together", "4 a second")


def test_lengths_have_their_mean_and_their_bounds() -> None:
    random = np.random.default_rng(1)
    for mean, spread, cut in ((69.5, 1.0, 0.93), (214.5, 0.7, 0.98)):
        found = traffic.lengths(random, mean, spread, 50_000)
        assert found.min() >= mean / 16 - 1
        assert found.max() == round(4 * mean)
        assert np.median(found) == pytest.approx(mean * np.exp(-(spread**2) / 2), rel=0.03)
        assert mean * (cut - 0.03) < found.mean() < mean  # what is cut off
    assert traffic.lengths(random, 3, 1.0, 1000).min() == 2


def test_the_longest_request_has_room() -> None:
    mix = Mix(message=20, answer=30, system=40)
    ask = Traffic(mix, from_vocabulary(IDS), 0, [1])
    sizes = [len(r.prompt) + r.answer_tokens for r in ask.requests(OPEN, 1)]
    assert max(sizes) <= mix.longest == 1 + 80 + 120 + 70


def test_system_prompts_are_shared_by_their_shares_and_by_all_rounds() -> None:
    mix = Mix(system=200)
    ask = Traffic(mix, from_vocabulary(IDS), 5, [1])
    assert [len(prompt) for prompt in ask.system_prompts] == [100, 150, 200, 350]
    for round_number in (0, 1):
        begins: Counter[int] = Counter()
        for request in ask.requests(OPEN, round_number):
            for index, prompt in enumerate(ask.system_prompts):
                begins[index] += request.prompt[1 : 1 + len(prompt)] == prompt
        shares = [begins[index] / OPEN.requests for index in range(4)]
        assert shares == pytest.approx(traffic.SYSTEM_SHARES, abs=0.035)


def test_prompts_come_from_the_vocabulary_or_from_a_text() -> None:
    random = np.random.default_rng(0)
    found = from_vocabulary(IDS)(random, 5000)
    assert set(found) <= set(IDS.tolist())
    assert len(set(found)) > 900
    passage = from_text(IDS)(random, 2500)
    steps = np.diff(passage)
    assert set(steps.tolist()) == {1, -999}  # in order; its beginning follows its end
    with pytest.raises(InputError, match="text for prompts is empty"):
        from_text(IDS[:0])


def test_loads_and_requests_survive_a_pipe() -> None:
    request = drawn(CLOSED)[0]
    assert TimedRequest.of(request.as_json()) == request
    assert Load.of(OPEN.as_json()) == OPEN
