"""Adapters by name in the engine: each request gets its own, and nobody a neighbour's pages."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from tests.engine.answers import end_of, run, tokens_of
from tests.engine.fakes import FakeRunner, expected_logits

from alpage.core.errors import CapacityError, UsageError
from alpage.core.types import SamplingParams
from alpage.engine.adapters import Adapters
from alpage.engine.engine import Engine
from alpage.engine.protocol import EmbedRequest, FinishEvent, Request, TokenEvent
from alpage.engine.sampling import SamplingState, sample_reference
from alpage.engine.scheduler import Limits, Scheduler
from alpage.weights.lora import LoraAdapter, LoraMatrix

LONG = [(7 * i) % 60 for i in range(21)]


def adapter(name: str, rank: int = 2) -> LoraAdapter:
    """A and B in the fake's sizes; the fake's answers follow from the name."""
    rng = np.random.default_rng(len(name))
    a = rng.standard_normal((rank, 8)).astype(np.float32)
    b = rng.standard_normal((8, rank)).astype(np.float32) + sum(map(ord, name))
    return LoraAdapter(name, {"layers.0.attention.wq.weight": LoraMatrix(a, b, 1.0)})


def asked(name: str | None, prompt: Sequence[int] = (1, 2, 3), tokens: int = 6) -> Request:
    return Request(prompt, SamplingParams(max_tokens=tokens, seed=1), adapter=name)


def expected(name: str | None, prompt: Sequence[int] = (1, 2, 3), tokens: int = 6) -> list[int]:
    window = list(prompt)
    state = SamplingState(SamplingParams(max_tokens=tokens, seed=1), prompt, sample_reference)
    for _ in range(tokens):
        window.append(state.sample(expected_logits(window, name or ""))[0])
        state.append(window[-1])
    return window[len(prompt) :]


def made(*names: str, pages: int = 64, budget: int = 1 << 20) -> tuple[Scheduler, Adapters]:
    runner = FakeRunner(pages=pages)
    adapters = Adapters(runner, budget)
    for name in names:
        adapters.load(name, adapter(name))
    return Scheduler(runner, adapters=adapters, limits=Limits(rows=16, running=8)), adapters


def test_many_adapters_in_one_batch_each_answer_as_alone() -> None:
    scheduler, adapters = made("a", "bb", "ccc", pages=20)
    names = [None, "a", "bb", "ccc", "a", None, "bb"]
    prompts = [[n, n + 1, 5] for n in range(7)]
    for number, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
        scheduler.add(number, asked(name, prompt, 12))
    events = run(scheduler)
    for number, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
        assert tokens_of(events[number]) == expected(name, prompt, 12)
    assert expected("a") != expected("bb") != expected(None)
    assert adapters.names == ("a", "bb", "ccc")


def test_pages_are_shared_by_content_of_the_adapter_alone() -> None:
    scheduler, adapters = made("a", "bb")

    def cached(name: str | None) -> int:
        scheduler.add(0, asked(name, LONG))
        events = run(scheduler)[0]
        assert tokens_of(events) == expected(name, LONG)
        return end_of(events).usage.cached_tokens

    assert [cached(None), cached("a"), cached("bb")] == [0, 0, 0]
    assert [cached(None), cached("a"), cached("bb")] == [20, 20, 20]
    adapters.load("bb", adapter("a"))  # another one under an old name
    scheduler.add(0, asked("bb", LONG))
    assert end_of(run(scheduler)[0]).usage.cached_tokens == 20  # what "a" has run


def test_an_unloaded_adapter_serves_those_who_run_and_nobody_else() -> None:
    scheduler, adapters = made("a", "bb")
    runner = scheduler._runner
    assert isinstance(runner, FakeRunner)
    scheduler.add(0, asked("a", tokens=20))
    run(scheduler, steps=3)
    adapters.unload("a")
    assert len(runner.adapters) == 2
    with pytest.raises(UsageError, match="no adapter is called 'a'; loaded are bb"):
        scheduler.add(1, asked("a"))
    adapters.load("a", adapter("other"))  # takes a slot of its own
    assert len(runner.adapters) == 3
    run(scheduler)
    assert sorted(a.name for a in runner.adapters.values()) == ["bb", "other"]
    scheduler.add(2, asked("a"))
    scheduler.add(3, EmbedRequest([1, 2], adapter="bb"))
    run(scheduler, steps=1)
    scheduler.cancel(2)
    run(scheduler)
    adapters.unload("a")
    adapters.unload("bb")
    assert runner.adapters == {}
    with pytest.raises(UsageError, match="none is loaded"):
        adapters.unload("a")


def test_the_memory_for_adapters_is_bounded() -> None:
    size = 2 * adapter("a").size
    scheduler, adapters = made("a", budget=2 * size)
    adapters.load("b", adapter("b"))
    with pytest.raises(CapacityError, match="adapter 'c' needs"):
        adapters.load("c", adapter("c"))
    assert adapters.names == ("a", "b")
    adapters.unload("a")
    adapters.load("c", adapter("c"))
    assert not scheduler.busy


def test_loading_and_unloading_while_others_run() -> None:
    engine = Engine(FakeRunner(pages=64, context=60))
    engine.load_adapter("stays", adapter("stays"))
    stop = threading.Event()

    def come_and_go() -> None:
        for round_ in range(40):
            engine.load_adapter("comes", adapter("comes", rank=1 + round_ % 3))
            engine.unload_adapter("comes")
        stop.set()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    asked_for = 0
    while not stop.is_set() or asked_for < 5:
        events = list(engine.submit(asked("stays")))
        assert [e.token for e in events if isinstance(e, TokenEvent)] == expected("stays")
        asked_for += 1
        try:
            last = list(engine.submit(asked("comes")))[-1]
            assert isinstance(last, FinishEvent)
        except UsageError as error:
            assert "no adapter is called 'comes'" in str(error)
    thread.join()
    assert engine.adapters == ("stays",)
    with pytest.raises(UsageError, match="no adapter is called 'x'"):
        engine.unload_adapter("x")
    engine.close()
    with pytest.raises(UsageError, match="has been closed"):
        engine.load_adapter("late", adapter("late"))
