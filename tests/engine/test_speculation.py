"""Guesses that run along: they change no token, cost nothing where they fail, and stop there."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.answers import end_of, expected, run, tokens_of
from tests.engine.fakes import FakeRunner, expected_logits

from alpage.core.types import SamplingParams
from alpage.engine.protocol import Request, StepBatch
from alpage.engine.sampling import SamplingState, sample_reference
from alpage.engine.scheduler import Limits, Scheduler
from alpage.engine.speculation import NgramLookup, StepCost, draft_length


class LoopingRunner(FakeRunner):
    """Looks at the last two tokens alone, so its answers soon repeat themselves.

    All tokens are still read back through the pages, and a wrong one is an assertion.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[StepBatch] = []

    def forward(self, batch: StepBatch) -> NDArray[np.float32]:
        self.steps.append(batch)
        return super().forward(batch)

    def _noise(
        self, tokens: list[int], width: int, marks: Sequence[int] = ()
    ) -> NDArray[np.float32]:
        return super()._noise([t % 8 for t in tokens[-2:]], width, marks)


def plain(one: Request, limit: int) -> tuple[list[int], str]:
    """`expected`, for the looping runner."""
    window, state = list(one.prompt), SamplingState(one.sampling, one.prompt, sample_reference)
    answer: list[int] = []
    while True:
        token, _, _ = state.sample(expected_logits([t % 8 for t in window[-2:]]))
        if token in one.sampling.stop_token_ids:
            return answer, "stop"
        state.append(token)
        answer.append(token)
        window.append(token)
        if len(answer) == one.sampling.max_tokens:
            return answer, "length"
        if len(window) > limit:
            if one.sampling.context_policy == "stop":
                return answer, "context"
            window = window[: min(4, limit // 4)] + window[-(limit // 2) :]


def asked(prompt: list[int], speculate: bool = True, **sampling: Any) -> Request:
    params = SamplingParams(**({"max_tokens": 60, "seed": 3, "temperature": 0.0} | sampling))
    return Request(prompt, params, speculate=speculate)


def test_what_repeats_itself_takes_fewer_steps_and_says_the_same() -> None:
    lengths = {}
    for speculate in (False, True):
        runner = LoopingRunner(context=200, pages=64)
        scheduler = Scheduler(runner)
        one = asked([1, 2], speculate, max_tokens=100)
        scheduler.add(0, one)
        events = run(scheduler)[0]
        assert tokens_of(events) == plain(one, 200)[0]
        usage = end_of(events).usage
        assert usage.completion_tokens == 100
        lengths[speculate] = len(runner.rows)
        if speculate:
            assert 50 < usage.accepted_tokens <= usage.drafted_tokens
            assert usage.accepted_tokens == 100 - len(runner.rows)
        else:
            assert usage.drafted_tokens == 0
        assert scheduler.free_pages == 64
    assert lengths[False] == 100
    assert lengths[True] < 40


@pytest.mark.parametrize("seed", range(25))
def test_any_request_in_any_company_says_what_it_says_alone(seed: int) -> None:
    chance = random.Random(seed)
    pages = chance.choice([6, 9, 16, 64])
    runner = LoopingRunner(pages=pages)
    rows = chance.choice([1, 3, 16, 64])
    limits = Limits(rows, chance.choice([1, 3, 16]), chance.randint(1, rows))
    scheduler = Scheduler(runner, context=chance.choice([24, 64]), limits=limits)
    limit = min(scheduler.context, pages * 4)
    wanted = [
        asked(
            [chance.randrange(60) for _ in range(chance.randint(1, min(limit, 12)))],
            chance.random() < 0.9,
            max_tokens=chance.randint(1, 60),
            temperature=chance.choice([0.0, 0.3, 1.0]),
            seed=chance.randrange(99),
            repetition_penalty=chance.choice([1.0, 1.0, 1.2]),
            stop_token_ids=[chance.randrange(60)],
            context_policy=chance.choice(["stop", "shift"]),
            top_logprobs=chance.choice([None, 2]),
        )
        for _ in range(8)
    ]
    for number, one in enumerate(wanted):
        scheduler.add(number, one)
    events = run(scheduler)
    for number, one in enumerate(wanted):
        assert (tokens_of(events[number]), end_of(events[number]).reason) == plain(one, limit)
    assert scheduler.free_pages == pages


def test_sampling_stays_exact_in_distribution() -> None:
    """Sampled answers with and without guesses: the same tokens for each of many seeds."""
    drafted = 0
    for seed in range(40):
        runner = LoopingRunner(context=120)
        scheduler = Scheduler(runner)
        one = asked([1, 2], temperature=0.35, seed=seed, max_tokens=80)
        scheduler.add(0, one)
        events = run(scheduler)[0]
        assert tokens_of(events) == plain(one, 120)[0]
        drafted += end_of(events).usage.drafted_tokens
    assert drafted > 400


def test_text_that_never_repeats_is_left_alone() -> None:
    runner = FakeRunner(context=250, pages=64)
    scheduler = Scheduler(runner)
    one = asked([1, 2, 3], max_tokens=240, temperature=1.0)
    scheduler.add(0, one)
    events = run(scheduler)[0]
    assert tokens_of(events) == expected(one, 250)[0]
    assert end_of(events).usage.drafted_tokens < 12


def test_guesses_take_no_page_from_anybody() -> None:
    runner = LoopingRunner(pages=16)
    scheduler = Scheduler(runner, limits=Limits(rows=32, running=4))
    for number in range(4):
        scheduler.add(number, asked([number, 1], max_tokens=14))
    events = run(scheduler)
    assert scheduler.preemptions == 0
    assert sum(end_of(found).usage.accepted_tokens for found in events.values()) > 0


def test_cancelled_in_the_middle_of_a_guess() -> None:
    scheduler = Scheduler(LoopingRunner(context=200, pages=64))
    scheduler.add(0, asked([1, 2], max_tokens=180))
    run(scheduler, steps=15)
    scheduler.cancel(0)
    assert scheduler.free_pages == 64


def test_lookup_finds_the_latest_place_and_follows_loops() -> None:
    lookup = NgramLookup([1, 2, 3, 7, 1, 2, 3, 8, 9, 1, 2, 3])
    assert lookup.draft(4) == [8, 9, 1, 2]
    assert lookup.draft(7) == [8, 9, 1, 2, 3, 8, 9]
    lookup.append(8)
    assert lookup.draft(1) == [9]
    lookup.append(50)
    assert lookup.draft(5) == []
    assert lookup.chance == 0
    assert NgramLookup([]).draft(3) == NgramLookup([4, 4]).draft(3) == []
    assert NgramLookup([4, 4, 4, 4]).draft(3) == [4, 4, 4]


def test_guesses_are_believed_by_how_often_they_were_right() -> None:
    lookup = NgramLookup([1, 2, 3, 9] * 8)
    long_match = lookup.chance
    for token in [1, 2, 3, 9] * 8:
        lookup.append(token)
    assert lookup.chance > max(0.95, long_match)
    chance = random.Random(4)
    wrong = NgramLookup([chance.randrange(3) for _ in range(50)])
    for _ in range(400):
        wrong.append(chance.randrange(3))
    assert wrong._hits[3] < 0.6


@pytest.mark.parametrize(("base", "slope"), [(0.004, 0.001), (0.05, 0.0001), (0.001, 0.001)])
def test_the_cost_of_a_row_is_learnt(base: float, slope: float) -> None:
    cost, chance = StepCost(), random.Random(1)
    for _ in range(300):
        rows = chance.randint(1, 8)
        cost.observe(rows, (base + slope * rows) * chance.uniform(0.9, 1.1))
    assert cost.marginal(4) == pytest.approx(max(0.01, slope / (base + 4 * slope)), rel=0.4)


def test_a_cost_that_was_never_seen_is_guessed_and_noise_is_bounded() -> None:
    cost = StepCost()
    assert cost.marginal(1) == pytest.approx(0.2)
    for _ in range(50):
        cost.observe(1, 0.004)
    assert cost.marginal(1) == pytest.approx(0.2)
    for rows, seconds in [(1, 0.004), (9, 0.001)] * 20:
        cost.observe(rows, seconds)
    assert cost.marginal(4) == 0.01


def test_drafts_are_as_long_as_they_pay() -> None:
    cost = StepCost()  # a row costs a fifth of a step
    assert draft_length(0.0, 1, 1.0, cost, 10) == 0
    assert draft_length(0.15, 1, 1.0, cost, 10) == 0
    assert 1 <= draft_length(0.5, 1, 1.0, cost, 10) <= 2
    assert draft_length(0.9, 1, 1.0, cost, 10) > 3
    assert draft_length(1.0, 1, 1.0, cost, 4) == 4
    assert draft_length(1.0, 1, 1.0, cost, 99) == 15
    assert draft_length(1.0, 1, 1.0, cost, -3) == 0
    assert draft_length(0.6, 16, 16.0, cost, 10) == 0
