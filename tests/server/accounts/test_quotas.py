"""Quotas against a plain model of them, on a clock of the test's own, and under threads."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alpage.core.errors import InternalError
from alpage.server.accounts.caller import ANYONE, Caller, Limits
from alpage.server.accounts.quotas import UNLIMITED, Admission, QuotaError, Quotas

MINUTE, SLOT, SECOND, DAY = 60 * 10**9, 10**9 // 4, 10**9, 86_400


class Clock:
    """A clock that goes when it is told to; it starts 100 seconds before midnight."""

    def __init__(self) -> None:
        self.now = 5 * SECOND

    def __call__(self) -> int:
        return self.now

    def wall(self) -> float:
        return 20_000 * DAY - 105 + self.now / SECOND

    @property
    def today(self) -> int:
        return int(self.wall() // DAY)


def caller(key: str = "k", **limits: int) -> Caller:
    return Caller(key, key, key, frozenset(("inference",)), limits=Limits(**limits))


def quotas_on(clock: Clock) -> Quotas:
    return Quotas(clock=clock, wall=clock.wall)


@dataclass
class Ask:
    """One request in the model: when it came, and each reservation with what counts of it."""

    admission: Admission
    came: int
    charges: list[list[int]] = field(default_factory=list)  # [time, day, tokens]
    settled: bool = False
    left: bool = False


class Plain(RuleBasedStateMachine):
    """Lists that are summed: what quotas have to agree with, but for a quarter of a second."""

    limits = Limits(requests_per_minute=4, tokens_per_minute=100, tokens_per_day=150, concurrent=3)

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.quotas = quotas_on(self.clock)
        self.caller = Caller("k", "k", "", frozenset(), limits=self.limits)
        self.asks: list[Ask] = []

    def requests(self, window: int) -> int:
        return sum(self.clock.now - ask.came < window for ask in self.asks)

    def tokens(self, window: int) -> int:
        charges = (charge for ask in self.asks for charge in ask.charges)
        return sum(tokens for at, _, tokens in charges if self.clock.now - at < window)

    def of_day(self) -> int:
        charges = (charge for ask in self.asks for charge in ask.charges)
        return sum(tokens for _, day, tokens in charges if day == self.clock.today)

    def under_way(self) -> int:
        return sum(not ask.left for ask in self.asks)

    @invariant()
    def nothing_is_exceeded(self) -> None:
        assert self.requests(MINUTE) <= 4 and self.under_way() <= 3
        assert self.tokens(MINUTE) <= 100 and self.of_day() <= 150

    @rule(quarters=st.integers(1, 120), odd=st.integers(0, SLOT))
    def time_passes(self, quarters: int, odd: int) -> None:
        self.clock.now += quarters * SLOT + odd

    @rule(nanoseconds=st.integers(0, SLOT))
    def a_little_time_passes(self, nanoseconds: int) -> None:
        self.clock.now += nanoseconds

    @precondition(lambda self: any(self.recent()))
    @rule(data=st.data(), nanoseconds=st.sampled_from((-1, 0, 1, SLOT // 2)))
    def something_becomes_a_minute_old(self, data: st.DataObject, nanoseconds: int) -> None:
        then = data.draw(st.sampled_from(list(self.recent()))) + MINUTE + nanoseconds
        self.clock.now = max(self.clock.now, then)

    def recent(self) -> Iterator[int]:
        for ask in self.asks:
            for at in (ask.came, *(charge[0] for charge in ask.charges)):
                if self.clock.now - at < MINUTE:
                    yield at

    @rule()
    def enter(self) -> None:
        try:
            ask = Ask(self.quotas.enter(self.caller), self.clock.now)
        except QuotaError as error:
            assert self.requests(MINUTE + SLOT) >= 4 or self.under_way() >= 3
            if error.limit == "requests_per_minute":
                self.fits_after(error, lambda: self.quotas.enter(self.caller), self.under_way() < 3)
        else:
            self.asks.append(ask)

    @precondition(lambda self: any(not a.settled and not a.left for a in self.asks))
    @rule(data=st.data(), prompt=st.integers(0, 60), answer=st.none() | st.integers(0, 60))
    def reserve(self, data: st.DataObject, prompt: int, answer: int | None) -> None:
        ask = data.draw(st.sampled_from([a for a in self.asks if not a.settled and not a.left]))
        least = prompt + (1 if answer is None else answer)
        try:
            granted = ask.admission.reserve(prompt, answer)
        except QuotaError as error:
            late = self.tokens(MINUTE + SLOT) + least > 100
            assert late or self.of_day() + least > 150
            assert (error.retry_after is None) == (least > 100)
            if error.retry_after is not None:
                again = self.clock.now, ask.admission
                self.fits_after(error, lambda: again[1].reserve(prompt, answer), keep=ask)
            return
        if answer is not None:
            assert granted == answer
        else:
            room = min(100 - self.tokens(MINUTE), 150 - self.of_day()) - prompt
            tight = min(100 - self.tokens(MINUTE + SLOT), 150 - self.of_day()) - prompt
            assert max(1, tight) <= granted <= room
        ask.charges.append([self.clock.now, self.clock.today, prompt + granted])

    def fits_after(
        self,
        error: QuotaError,
        again: Callable[[], Admission | int],
        fits: bool = True,
        keep: Ask | None = None,
    ) -> None:
        """The time that an error tells is enough, and the request is one of the model then."""
        assert error.retry_after is not None
        self.clock.now += round(error.retry_after * SECOND)
        if not fits:
            return
        got = again()
        if isinstance(got, Admission):
            self.asks.append(Ask(got, self.clock.now))
        elif keep is not None:
            taken = keep.admission._charges[-1].tokens
            keep.charges.append([self.clock.now, self.clock.today, taken])

    @precondition(lambda self: any(not a.settled for a in self.asks))
    @rule(data=st.data(), part=st.floats(0, 1))
    def settle(self, data: st.DataObject, part: float) -> None:
        ask = data.draw(st.sampled_from([a for a in self.asks if not a.settled]))
        used = int(sum(tokens for *_, tokens in ask.charges) * part)
        ask.admission.settle(used)
        ask.settled = True
        for charge in reversed(ask.charges):
            charge[2] = min(used, charge[2])
            used -= charge[2]

    @precondition(lambda self: bool(self.asks))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ask = data.draw(st.sampled_from(self.asks))
        ask.admission.leave()
        ask.left = True


Plain.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAgainstThePlainModel = Plain.TestCase


def test_without_limits_everything_fits() -> None:
    quotas = Quotas()
    for _ in range(100):
        admission = quotas.enter(ANYONE)
        assert admission.reserve(10**9, 10**9) == 10**9
        assert admission.reserve(5, None) == UNLIMITED and admission.reserve(5, None, 7) == 7
    assert len(quotas) == 0


def test_what_is_asked_is_granted_or_refused() -> None:
    quotas = quotas_on(Clock())
    with quotas.enter(caller(tokens_per_minute=100)) as admission:
        assert admission.reserve(30, 20) == 20
        with pytest.raises(QuotaError) as told:
            admission.reserve(30, 30)
        assert "100 tokens a minute; 50 are used or reserved, and this request " in str(told.value)
        assert "needs 60: try again in 60.000 seconds" in str(told.value)
        assert (told.value.limit, told.value.value) == ("tokens_per_minute", 100)
        assert told.value.retry_after == 60
        assert admission.reserve(30, None, at_most=15) == 15
        assert admission.reserve(1, None) == 4
        with pytest.raises(QuotaError, match="never fit, so make it shorter") as never:
            admission.reserve(101, 0)
        assert never.value.retry_after is None
        admission.settle(0)
        admission.settle(90)
    again = quotas.enter(caller(tokens_per_minute=100))
    assert again.reserve(0, None) == 100
    with pytest.raises(InternalError, match="before a request settles"):
        admission.reserve(1, 1)


def test_what_comes_close_together_never_counts_too_short() -> None:
    clock = Clock()
    quotas = quotas_on(clock)
    admission = quotas.enter(caller(tokens_per_minute=100))
    admission.reserve(50, 0)
    clock.now += SLOT - 1
    admission.reserve(50, 0)
    clock.now += MINUTE - 1
    with pytest.raises(QuotaError) as told:
        admission.reserve(51, 0)
    assert told.value.retry_after == 0.001
    clock.now += 1
    assert admission.reserve(51, None) == 49


def test_what_was_not_used_is_given_back_and_no_more() -> None:
    quotas = quotas_on(Clock())
    for who in (caller("a", tokens_per_minute=100), caller("b", tokens_per_day=100)):
        with quotas.enter(who) as admission:
            assert admission.reserve(30, 20) == 20
            admission.settle(41)
        assert quotas.enter(who).reserve(0, None) == 59


def test_what_was_used_counts_as_the_newest_of_it() -> None:
    clock = Clock()
    quotas = quotas_on(clock)
    admission = quotas.enter(caller(tokens_per_minute=100))
    admission.reserve(40, 0)
    clock.now += 10 * SECOND
    admission.reserve(40, 0)
    admission.settle(50)
    clock.now += MINUTE - 10 * SECOND  # the first has gone
    assert quotas.enter(caller(tokens_per_minute=100)).reserve(0, None) == 60


def test_leaving_without_settling_keeps_what_was_reserved() -> None:
    quotas = quotas_on(Clock())
    who = caller(tokens_per_day=10, concurrent=1)
    admission = quotas.enter(who)
    admission.reserve(5, 5)
    with pytest.raises(QuotaError, match="1 requests at the same time") as busy:
        quotas.enter(who)
    assert busy.value.limit == "concurrent" and busy.value.retry_after
    admission.leave()
    admission.leave()
    with quotas.enter(who) as later, pytest.raises(QuotaError) as told:
        later.reserve(1, 0)
    assert told.value.limit == "tokens_per_day" and told.value.retry_after == 100


def test_more_than_was_reserved_counts_too() -> None:
    quotas = quotas_on(Clock())
    who = caller(tokens_per_minute=100)
    admission = quotas.enter(who)
    admission.reserve(10, 10)
    admission.settle(95)
    assert quotas.enter(who).reserve(0, None) == 5


def test_a_new_day_begins_at_midnight_utc() -> None:
    clock = Clock()
    quotas = Quotas(clock=clock, wall=clock.wall, used_today={"k": 90, "other": 3})
    admission = quotas.enter(caller(tokens_per_day=100))
    with pytest.raises(QuotaError) as told:
        admission.reserve(11, 0)
    assert told.value.retry_after == 100
    assert admission.reserve(10, 0) == 0
    clock.now += 100 * SECOND
    after = quotas.enter(caller(tokens_per_day=100))
    after.reserve(11, 0)
    admission.settle(0)  # of yesterday: gives nothing back to today
    assert after.reserve(0, None) == 89


def test_a_clock_set_back_brings_no_old_day_again() -> None:
    clock = Clock()
    back = [0.0]
    quotas = Quotas(clock=clock, wall=lambda: clock.wall() - back[0])
    quotas.enter(caller(tokens_per_day=10)).reserve(10, 0)
    back[0] = DAY
    with pytest.raises(QuotaError):
        quotas.enter(caller(tokens_per_day=10)).reserve(1, 0)


def test_idle_keys_are_forgotten() -> None:
    clock = Clock()
    quotas = quotas_on(clock)
    for number in range(1000):
        with quotas.enter(caller(str(number), tokens_per_minute=9)) as admission:
            admission.reserve(1, 1)
    assert len(quotas) == 1000
    clock.now += 200 * SECOND  # another day, too
    quotas.enter(caller("one more", tokens_per_minute=9))
    assert len(quotas) == 1


def test_memory_of_one_key_is_bounded() -> None:
    clock = Clock()
    quotas = quotas_on(clock)
    who = caller(requests_per_minute=10**6)
    for _ in range(20_000):
        clock.now += SECOND // 100
        quotas.enter(who).leave()
    assert len(quotas._uses["k"].requests._slots) <= 242


def test_threads_never_exceed_a_limit() -> None:
    """What is reserved at any moment is counted outside, before it is settled."""
    quotas = Quotas(clock=lambda: 0)
    who = caller(tokens_per_minute=1000, requests_per_minute=300, concurrent=5)
    lock = threading.Lock()
    held = under_way = entered = spent = 0
    worst = [0, 0]

    def work(seed: int) -> None:
        nonlocal held, under_way, entered, spent
        dice = random.Random(seed)
        for _ in range(400):
            try:
                admission = quotas.enter(who)
            except QuotaError:
                continue
            with lock:
                under_way += 1
                entered += 1
                worst[0] = max(worst[0], under_way)
            with contextlib.suppress(QuotaError):
                prompt, answer = dice.randrange(60), dice.choice([None, dice.randrange(60)])
                taken = prompt + admission.reserve(prompt, answer, 100)
                with lock:
                    held += taken
                    worst[1] = max(worst[1], held + spent)
                used = dice.randrange(taken // 8 + 1)
                with lock:
                    held -= taken
                    spent += used
                admission.settle(used)
            with lock:
                under_way -= 1
            admission.leave()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst[0] <= 5 and worst[1] <= 1000 and entered == 300
    assert quotas.enter(caller(tokens_per_minute=1000)).reserve(0, None) == 1000 - spent
