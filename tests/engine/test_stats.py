"""What an engine says of itself is the sum of what its requests used, whatever happened."""

import itertools

import pytest
from tests.engine.answers import end_of, request, run
from tests.engine.fakes import FakeConstraint, FakeRunner
from tests.engine.test_adapters import adapter
from tests.engine.test_engine import WAIT, GatedRunner, until
from tests.engine.test_engine import request as one_of
from tests.engine.test_speculation import LoopingRunner, asked

from alpage.core.errors import InternalError
from alpage.core.types import SamplingParams
from alpage.engine.engine import Engine
from alpage.engine.policy import Policy
from alpage.engine.protocol import EmbedRequest, FinishEvent, Request
from alpage.engine.scheduler import Limits, Scheduler


def test_counts_are_what_the_requests_used() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8, 10], [3, 1]]
    usages = []
    for prompt in prompts:
        last = list(engine.submit(one_of(prompt)))[-1]
        assert isinstance(last, FinishEvent)
        usages.append(last.usage)
    engine.embed([4, 4, 4])
    stats = engine.stats
    assert stats.alive and stats.waiting == stats.running == 0
    assert stats.requests == 4
    assert stats.prompt_tokens == 9 + 9 + 2 + 3
    assert stats.cached_tokens == sum(usage.cached_tokens for usage in usages) == 8
    assert stats.completion_tokens == 15
    assert stats.steps == len(runner.rows)
    assert stats.rows == sum(runner.rows)
    assert stats.step_seconds > 0
    assert (stats.pages_total, stats.pages_free, stats.page_size) == (32, 32, 4)
    assert stats.restarts == stats.preemptions == stats.adapters == stats.constrained == 0
    engine.close()


def test_drafts_are_counted_as_they_are_checked() -> None:
    ticks = itertools.count()  # each step costs the same, so guesses pay whatever else runs here
    scheduler = Scheduler(LoopingRunner(context=200, pages=64), clock=lambda: float(next(ticks)))
    scheduler.add(0, asked([1, 2], True, max_tokens=100))
    usage = end_of(run(scheduler)[0]).usage
    assert usage.accepted_tokens > 50
    assert scheduler.counters.drafted == usage.drafted_tokens
    assert scheduler.counters.accepted == usage.accepted_tokens
    assert scheduler.counters.completion_tokens == 100


def test_a_prompt_that_has_to_run_again_is_counted_once() -> None:
    scheduler = Scheduler(FakeRunner(pages=8), limits=Limits(rows=16, running=8))
    for number in range(4):
        scheduler.add(number, request([number, number], seed=number, max_tokens=20))
    run(scheduler)
    assert scheduler.counters.preemptions > 0
    assert scheduler.counters.prompt_tokens == 8
    assert scheduler.counters.cached_tokens == 0
    assert scheduler.counters.completion_tokens == 80


def test_grammars_are_counted() -> None:
    scheduler = Scheduler(FakeRunner())
    params = SamplingParams(max_tokens=4, seed=1)
    scheduler.add(0, Request([1, 2], params, constraint=FakeConstraint(1, 4)))
    scheduler.add(1, Request([1, 2], params))
    scheduler.add(2, EmbedRequest([1, 2]))
    run(scheduler)
    assert scheduler.counters.constrained == 1


def test_those_who_wait_and_run_are_seen_during_a_step() -> None:
    runner = GatedRunner()
    engine = Engine(runner, limits=Limits(running=2))
    runner.open.clear()
    tickets = [engine.submit(one_of([n])) for n in range(5)]
    assert runner.began.acquire(timeout=WAIT)
    stats = engine.stats
    assert stats.running + stats.waiting == 5
    assert 1 <= stats.running <= 2
    assert stats.pages_free < stats.pages_total
    runner.open.set()
    for ticket in tickets:
        list(ticket)
    until(lambda: engine.stats.running + engine.stats.waiting == 0)
    engine.close()


def test_a_restart_keeps_the_sums_and_an_end_is_seen() -> None:
    runner = GatedRunner()
    engine = Engine(runner)
    list(engine.submit(one_of([7, 8, 9])))
    runner.fail = SystemExit(3)
    with pytest.raises(InternalError, match="engine stopped"):
        list(engine.submit(one_of([1])))
    list(engine.submit(one_of([2])))
    stats = engine.stats
    assert stats.alive and stats.restarts == 1
    assert stats.completion_tokens == 10
    assert stats.prompt_tokens == 5
    assert stats.running == stats.waiting == 0
    engine.close()
    after = engine.stats  # the runner is closed: nothing of it is asked
    assert not after.alive and not engine.alive
    assert after.completion_tokens == 10


def test_an_engine_whose_thread_died_is_not_alive() -> None:
    made: list[Policy] = []

    def policy() -> Policy:
        if made:
            raise SystemExit(4)  # the new beginning fails too
        made.append(Policy())
        return made[0]

    runner = FakeRunner()
    runner.fail = SystemExit(3)
    engine = Engine(runner, policy=policy)
    ticket = engine.submit(one_of([1]))
    with pytest.raises(InternalError, match="load the model again"):
        list(ticket)
    until(lambda: not engine.alive)
    assert not engine.stats.alive
    assert engine.stats.running == engine.stats.waiting == 0
    engine.close()


def test_adapters_are_counted_with_their_memory() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    assert (engine.stats.adapters, engine.stats.adapter_bytes) == (0, 0)
    engine.load_adapter("a", adapter("a"))
    engine.load_adapter("b", adapter("b"))
    assert engine.stats.adapters == 2
    assert engine.stats.adapter_bytes == runner.adapter_bytes > 0
    engine.unload_adapter("a")
    assert engine.stats.adapters == 1
    assert engine.stats.adapter_bytes == runner.adapter_bytes > 0
    engine.close()
