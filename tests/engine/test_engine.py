"""The engine thread: many callers, callbacks that fail, consumers that leave, ends of all kinds."""

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.engine.fakes import VOCAB, FakeRunner, expected_logits, expected_states

from alpage.core.errors import InputError, InternalError, UsageError
from alpage.core.types import SamplingParams
from alpage.engine.engine import Engine
from alpage.engine.policy import Policy
from alpage.engine.protocol import (
    Event,
    FailEvent,
    FinishEvent,
    Request,
    StepBatch,
    TokenEvent,
)
from alpage.engine.scheduler import Limits

WAIT = 30  # seconds until a test that hangs is called broken


class GatedRunner(FakeRunner):
    """Stops before each forward pass until `open` is set; `steps` counts those begun."""

    def __init__(self, pages: int = 64, context: int = 250) -> None:
        super().__init__(pages=pages, context=context)
        self.open = threading.Event()
        self.open.set()
        self.steps = 0
        self.began = threading.Semaphore(0)

    def forward(self, batch: StepBatch) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
        self.steps += 1
        self.began.release()
        assert self.open.wait(WAIT)
        return super().forward(batch)


def request(prompt: list[int], max_tokens: int | None = 5, seed: int = 1) -> Request:
    return Request(prompt, SamplingParams(max_tokens=max_tokens, seed=seed))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def tokens_of(events: list[Event]) -> list[int]:
    return [event.token for event in events if isinstance(event, TokenEvent)]


def test_events_come_as_an_iterable() -> None:
    engine = Engine(FakeRunner())
    first = list(engine.submit(request([1, 2])))
    assert len(tokens_of(first)) == 5
    assert isinstance(first[-1], FinishEvent)
    assert [type(e) for e in first] == [TokenEvent] * 5 + [FinishEvent]
    assert tokens_of(list(engine.submit(request([1, 2])))) == tokens_of(first)
    assert engine.context == 64
    engine.close()


def test_many_threads_share_one_batch_and_get_their_own_answers() -> None:
    runner = FakeRunner(pages=12)
    engine = Engine(runner, limits=Limits(rows=8, running=4))
    wanted = [request([n, n + 1], max_tokens=12, seed=n) for n in range(40)]
    alone = [tokens_of(list(engine.submit(one))) for one in wanted]
    before = len(runner.rows)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: tokens_of(list(engine.submit(one))), wanted))
    assert together == alone
    assert len(runner.rows) - before < before
    engine.close()


def test_score_and_embed() -> None:
    engine = Engine(FakeRunner())
    logits = expected_logits([4])
    scores = engine.score([4, 9])
    assert scores[0] is None
    assert scores[1] == pytest.approx(logits[9] - np.log(np.exp(logits).sum()), abs=1e-5)
    mean = expected_states([4, 9]).mean(axis=0)
    assert engine.embed([4, 9]) == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    engine.close()


def test_bad_requests_are_refused_where_they_are_made() -> None:
    engine = Engine(FakeRunner())
    with pytest.raises(InputError, match="prompt is empty"):
        engine.submit(request([]))
    with pytest.raises(InputError, match="outside the vocabulary"):
        engine.submit(request([VOCAB]))
    engine.close()


def test_callbacks_get_the_events_and_their_failure_stays_with_them() -> None:
    engine = Engine(FakeRunner())
    alone = list(engine.submit(request([3], max_tokens=8)))
    got: list[Event] = []
    done = threading.Event()

    def fails(event: Event) -> None:
        got.append(event)
        if isinstance(event, FailEvent):
            done.set()
        elif len(got) == 2:
            raise KeyError("mine")

    engine.start(request([1], max_tokens=None), fails)
    good = engine.submit(request([3], max_tokens=8))
    assert tokens_of(list(good)) == tokens_of(alone)
    assert done.wait(WAIT)
    assert len(got) == 3
    assert isinstance(got[2], FailEvent)
    assert isinstance(got[2].error, KeyError)
    engine.close()


def test_a_callback_can_end_its_request_before_another_step() -> None:
    runner = FakeRunner(context=64)
    engine = Engine(runner)
    got: list[Event] = []
    done = threading.Event()

    def two_are_enough(event: Event) -> bool:
        got.append(event)
        if isinstance(event, FinishEvent):
            done.set()
        return len(got) == 2

    engine.start(request([1], max_tokens=None), two_are_enough)
    assert done.wait(WAIT)
    assert [type(event) for event in got] == [TokenEvent, TokenEvent, FinishEvent]
    assert isinstance(got[2], FinishEvent)
    assert (got[2].reason, got[2].usage.completion_tokens) == ("cancelled", 2)
    assert len(runner.rows) == 2
    engine.close()


def test_a_callback_that_cannot_even_be_told_hurts_nobody() -> None:
    engine = Engine(FakeRunner())

    def always_fails(event: Event) -> None:
        raise SystemExit("mine")

    engine.start(request([1]), always_fails)
    assert len(list(engine.submit(request([3])))) == 6
    engine.close()


def test_cancel_from_another_thread_ends_within_a_step() -> None:
    runner = GatedRunner()
    engine = Engine(runner)
    ticket = engine.submit(request([1], max_tokens=None))
    events = iter(ticket)
    next(events)
    runner.open.clear()
    while runner.began.acquire(timeout=0.2):
        pass
    steps = runner.steps
    ticket.cancel()
    runner.open.set()
    rest = list(events)
    assert isinstance(rest[-1], FinishEvent)
    assert rest[-1].reason == "cancelled"
    assert runner.steps == steps  # the pass that was under way, and none after it
    assert list(ticket) == []
    ticket.cancel()  # harmless
    engine.close()


@pytest.mark.parametrize("way", ["break", "raise", "interrupt", "drop", "never read"])
def test_a_consumer_that_leaves_cancels(way: str) -> None:
    runner = GatedRunner(pages=63)
    engine = Engine(runner)

    def consume() -> None:
        ticket = engine.submit(request([1], max_tokens=None))
        if way == "never read":
            return
        for count, _ in enumerate(ticket):
            if count == 2:
                if way == "break":
                    break
                if way == "raise":
                    raise ValueError
                if way == "interrupt":
                    raise KeyboardInterrupt
                return

    if way in ("raise", "interrupt"):
        with pytest.raises((ValueError, KeyboardInterrupt)):
            consume()
    else:
        consume()
    gc.collect()
    until(lambda: engine._loop.scheduler.free_pages == 63 and not engine._loop.scheduler.busy)
    assert len(list(engine.submit(request([2])))) == 6
    engine.close()


def test_ctrl_c_reaches_a_consumer_that_waits() -> None:
    runner = GatedRunner(pages=63)
    engine = Engine(runner)
    runner.open.clear()
    ticket = engine.submit(request([1], max_tokens=None))
    assert runner.began.acquire(timeout=WAIT)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        list(ticket)
    runner.open.set()
    until(lambda: engine._loop.scheduler.free_pages == 63 and not engine._loop.scheduler.busy)
    engine.close()


def test_an_idle_engine_sleeps() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    list(engine.submit(request([1])))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25  # busy waiting would take all of it
    engine.close()


def test_a_failing_runner_raises_in_the_consumer_and_the_engine_lives_on() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    runner.fail = ValueError("odd")
    with pytest.raises(InternalError, match="ValueError: odd"):
        list(engine.submit(request([1])))
    assert len(list(engine.submit(request([1])))) == 6
    engine.close()


def test_what_nobody_expects_fails_those_who_run_and_the_engine_starts_again() -> None:
    runner = GatedRunner()
    engine = Engine(runner)
    alone = tokens_of(list(engine.submit(request([7, 8, 9]))))
    runner.open.clear()
    runner.began = threading.Semaphore(0)
    tickets = [engine.submit(request([n], max_tokens=None)) for n in range(3)]
    assert runner.began.acquire(timeout=WAIT)
    runner.fail = SystemExit(3)  # no Exception: nothing in the engine expects it
    runner.open.set()
    until(lambda: engine.restarts == 1)
    assert engine._loop.scheduler.free_pages == 64 or engine._loop.scheduler.busy
    errors = []
    for ticket in tickets:  # those that came after the failure run on
        ticket.cancel()
        try:
            list(ticket)
        except InternalError as failed:
            errors.append(failed)
    assert errors and len({id(one) for one in errors}) == len(errors)
    for one in errors:
        assert "the engine stopped: SystemExit: 3; it has started again" in str(one)
    assert tokens_of(list(engine.submit(request([7, 8, 9])))) == alone
    until(lambda: not engine._loop.scheduler.busy)
    assert engine._loop.scheduler.free_pages == 64
    engine.close()
    assert runner.closed


def test_an_engine_that_cannot_start_again_refuses_everyone() -> None:
    runner = GatedRunner()
    made: list[Policy] = []

    def policy() -> Policy:
        if made:
            raise MemoryError("gone")
        made.append(Policy())
        return made[0]

    engine = Engine(runner, policy=policy)
    runner.open.clear()
    ticket = engine.submit(request([1]))
    assert runner.began.acquire(timeout=WAIT)
    runner.fail = SystemExit(3)
    runner.open.set()
    with pytest.raises(InternalError, match="the engine stopped: MemoryError: gone; load the"):
        list(ticket)
    with pytest.raises(InternalError, match="the engine stopped: MemoryError"):
        engine.submit(request([1]))
    engine.close()
    assert runner.closed


def test_close_ends_open_requests_and_refuses_new_ones() -> None:
    runner = GatedRunner()
    engine = Engine(runner)
    ticket = engine.submit(request([1], max_tokens=None))
    assert runner.began.acquire(timeout=WAIT)
    engine.close()
    engine.close()
    assert runner.closed
    with pytest.raises(UsageError, match="has been closed"):
        list(ticket)
    with pytest.raises(UsageError, match="has been closed"):
        engine.submit(request([1]))


def test_close_inside_a_callback_does_not_wait_for_itself() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    engine.start(request([1], max_tokens=None), lambda event: engine.close())
    until(lambda: runner.closed)


def test_a_dropped_engine_ends_its_thread_but_not_under_a_ticket() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    thread = engine._loop.thread
    ticket = engine.submit(request([1]))
    seen = weakref.ref(engine)
    del engine
    gc.collect()
    assert len(list(ticket)) == 6
    del ticket
    gc.collect()
    assert seen() is None
    thread.join(WAIT)
    assert runner.closed
