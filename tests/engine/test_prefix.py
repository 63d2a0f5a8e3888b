"""Beginnings that were run before are taken over: for the same tenant, and nobody else."""

import pytest
from tests.engine.answers import check_result, end_of, expected, request, run, tokens_of
from tests.engine.fakes import FakeRunner

from alpage.core.types import SamplingParams
from alpage.engine.protocol import EmbedRequest, FinishEvent, Request
from alpage.engine.scheduler import Limits, Scheduler

PAGE = 4
LONG = [(7 * i) % 60 for i in range(40)]


def of(tenant: str, prompt: list[int], answer: int = 3, seed: int = 1) -> Request:
    return Request(prompt, SamplingParams(max_tokens=answer, seed=seed), tenant=tenant)


def add(scheduler: Scheduler, number: int, one: Request) -> tuple[list[int], int]:
    """Run a request alone: its tokens, and how many of its prompt's did not run."""
    scheduler.add(number, one)
    events = run(scheduler)[number]
    assert tokens_of(events) == expected(one, 64)[0]
    return tokens_of(events), end_of(events).usage.cached_tokens


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 9, 39, 40])
def test_all_full_pages_but_the_last_token_are_taken_over(length: int) -> None:
    runner = FakeRunner()
    scheduler = Scheduler(runner)
    assert add(scheduler, 0, of("", LONG[:length]))[1] == 0
    before = sum(runner.rows)
    assert add(scheduler, 1, of("", LONG[:length], seed=2))[1] == (length - 1) // PAGE * PAGE
    assert sum(runner.rows) - before == length - (length - 1) // PAGE * PAGE + 2
    assert scheduler.free_pages == 32


def test_a_conversation_takes_over_its_earlier_answers() -> None:
    scheduler = Scheduler(FakeRunner())
    first = of("", LONG[:10], answer=9)
    answer, _ = add(scheduler, 0, first)
    longer = [*LONG[:10], *answer, 1, 2, 3]
    # 18 positions have run: the last token was sampled, but nothing ran after it.
    assert add(scheduler, 1, of("", longer))[1] == 16


def test_a_different_token_ends_what_is_shared() -> None:
    scheduler = Scheduler(FakeRunner())
    add(scheduler, 0, of("", LONG))
    other = [*LONG[:10], 61, *LONG[11:]]
    assert add(scheduler, 1, of("", other))[1] == 8
    assert add(scheduler, 2, of("", [61, *LONG[1:]]))[1] == 0


def test_tenants_never_share() -> None:
    runner = FakeRunner()
    scheduler = Scheduler(runner)
    assert add(scheduler, 0, of("a", LONG))[1] == 0
    rows = sum(runner.rows)
    assert add(scheduler, 1, of("b", LONG))[1] == 0
    assert sum(runner.rows) == 2 * rows  # all of it ran again
    assert add(scheduler, 2, of("a", LONG))[1] == 36
    assert add(scheduler, 3, of("b", LONG))[1] == 36


def test_equal_prompts_that_come_together_run_once() -> None:
    """Parallel samples (`n`): one runs the prompt, the others wait for it and take it over."""
    runner = FakeRunner(pages=64)
    scheduler = Scheduler(runner, limits=Limits(rows=48, running=8))
    wanted = [of("", LONG, answer=5, seed=n) for n in range(6)]
    for number, one in enumerate(wanted):
        scheduler.add(number, one)
    scheduler.add(9, of("", [1, 2, 3]))  # behind those who wait, and not held up by them
    events = run(scheduler, steps=1)
    assert set(events) == {0, 9}
    for number, found in run(scheduler).items():
        events[number] += found
    for number, one in enumerate(wanted):
        assert tokens_of(events[number]) == expected(one, 64)[0]
        assert end_of(events[number]).usage.cached_tokens == (36 if number else 0)
    assert sum(runner.rows) == 40 + 5 * 4 + 6 * 4 + 3 + 2
    assert scheduler.free_pages == 64


def test_who_waits_for_another_goes_on_when_that_one_leaves() -> None:
    scheduler = Scheduler(FakeRunner(), limits=Limits(rows=8, running=4))
    scheduler.add(0, of("", LONG, seed=1))
    scheduler.add(1, of("", LONG, seed=2))
    run(scheduler, steps=2)
    scheduler.cancel(0)
    events = run(scheduler)[1]
    assert tokens_of(events) == expected(of("", LONG, seed=2), 64)[0]
    assert end_of(events).usage.cached_tokens == 16


def test_what_was_used_last_is_kept_longest() -> None:
    scheduler = Scheduler(FakeRunner(pages=12))
    texts = [[n] * 16 for n in range(3)]
    for number in (0, 1):
        add(scheduler, number, of("", texts[number], answer=1))
    assert add(scheduler, 2, of("", texts[0], answer=1))[1] == 12  # used again
    add(scheduler, 3, of("", texts[2], answer=1))  # 4 pages are untouched, so nothing is lost
    assert add(scheduler, 4, of("", [9] * 16, answer=1))[1] == 0  # text 1 has to go
    assert add(scheduler, 5, of("", texts[0], answer=1))[1] == 12
    assert add(scheduler, 6, of("", texts[1], answer=1))[1] == 0


def test_the_end_of_a_text_is_forgotten_before_its_beginning() -> None:
    scheduler = Scheduler(FakeRunner(pages=12))
    add(scheduler, 0, of("", LONG, answer=1))  # 10 pages
    add(scheduler, 1, of("", [1] * 16, answer=1))  # 4 pages: 2 of the first text's are needed
    assert add(scheduler, 2, of("", LONG, answer=1))[1] == 32


def test_scores_and_embeddings_run_every_token() -> None:
    scheduler = Scheduler(FakeRunner())
    add(scheduler, 0, of("", LONG))
    scored = Request(LONG, SamplingParams(seed=1, max_tokens=2), prompt_logprobs=True)
    for number, one in ((1, scored), (2, EmbedRequest(LONG))):
        scheduler.add(number, one)
        events = run(scheduler)[number]
        check_result(one, events)
        assert end_of(events).usage.cached_tokens == 0
    # What they ran, others take over.
    other = [5, *LONG]
    scheduler.add(3, EmbedRequest(other))
    run(scheduler)
    assert add(scheduler, 4, of("", other))[1] == 40


def test_a_preempted_request_takes_its_own_pages_back() -> None:
    runner = FakeRunner(pages=8)
    scheduler = Scheduler(runner, limits=Limits(rows=16, running=8))
    asked = [request([n, n], seed=n, max_tokens=20) for n in range(4)]
    for number, one in enumerate(asked):
        scheduler.add(number, one)
    events = run(scheduler)
    assert scheduler.preemptions > 0
    plain = sum(len(one.prompt) + 20 - 1 for one in asked)
    assert sum(runner.rows) < plain + 4 * 22  # far from running everything again
    for number, one in enumerate(asked):
        assert tokens_of(events[number]) == expected(one, 32)[0]
        assert end_of(events[number]).usage.cached_tokens == 0


def test_a_shifted_window_is_not_mistaken_for_the_old_one() -> None:
    scheduler = Scheduler(FakeRunner(pages=64), context=24)
    one = request(LONG[:20], max_tokens=60, context_policy="shift")
    scheduler.add(0, one)
    assert tokens_of(run(scheduler)[0]) == expected(one, 24)[0]
    scheduler.add(1, one)
    events = run(scheduler)[1]
    assert tokens_of(events) == expected(one, 24)[0]
    assert end_of(events).usage.cached_tokens == 16
    assert scheduler.free_pages == 64


def test_pages_of_a_failed_step_are_not_taken_over() -> None:
    runner = FakeRunner()
    scheduler = Scheduler(runner, limits=Limits(rows=16, running=2))
    scheduler.add(0, of("", LONG))
    run(scheduler, steps=1)
    runner.fail = ValueError("broken")
    run(scheduler)
    runner.cells[4:] = 59  # what the failed step may have left
    assert add(scheduler, 1, of("", LONG))[1] == 16


def ended(scheduler: Scheduler) -> tuple[int, str, int]:
    """Who ended in the next step, why, and after how many tokens."""
    outcomes = scheduler.step()
    ((number, end),) = [(n, e) for n, e in outcomes if isinstance(e, FinishEvent)]
    return number, end.reason, end.usage.completion_tokens


def test_time_runs_out_while_waiting_and_while_running() -> None:
    now = [0.0]
    scheduler = Scheduler(FakeRunner(), limits=Limits(running=1), clock=lambda: now[0])
    sampling = SamplingParams(seed=1, max_tokens=40)
    scheduler.add(0, Request([1, 2], sampling, timeout=2.0))
    scheduler.add(1, Request([3], sampling, timeout=1.5))
    scheduler.add(2, Request([4], SamplingParams(seed=1, max_tokens=2)))
    events = run(scheduler, steps=3)
    assert set(events) == {0}
    now[0] = 1.5
    assert ended(scheduler) == (1, "deadline", 0)
    now[0] = 2.0
    assert ended(scheduler) == (0, "deadline", 4)
    assert end_of(run(scheduler)[2]).reason == "length"
    assert scheduler.free_pages == 32
