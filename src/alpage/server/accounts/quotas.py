"""What each key may use, held while requests are under way: exact, in memory, for one process.

A request enters (one more request of this minute, one more under way), reserves the tokens that it
may come to use, settles what it used, and leaves. What is admitted never exceeds a limit: tokens
count in full from their reservation on, and what was not used is given back when they are settled.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from alpage.core.errors import CapacityError, InternalError
from alpage.server.accounts.caller import Caller, Limits

LimitName = Literal["requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent"]

UNLIMITED = 2**31 - 1
"""Answer tokens granted where no limit holds and none was asked for."""

_MINUTE = 60_000_000_000  # nanoseconds
_SLOT = 250_000_000
_DAY = 86_400  # seconds
_BUSY_SECONDS = 1.0  # when a request under way will end is not known
_NEVER = math.inf
_WORDS: dict[LimitName, str] = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "tokens_per_day": "tokens a day",
    "concurrent": "requests at the same time",
}


class QuotaError(CapacityError):
    """A key's limit does not leave room for a request.

    `limit` is the field of `Limits`, `value` its number. The same request fits after `retry_after`
    seconds if the key asks nothing else meanwhile; None: it never does, being larger than the
    whole limit. For `concurrent` the seconds are a guess.
    """

    def __init__(
        self, message: str, *, limit: LimitName, value: int, retry_after: float | None
    ) -> None:
        super().__init__(message)
        self.limit: LimitName = limit
        self.value = value
        self.retry_after = retry_after


class _Slot:
    """What came within a quarter of a second; it counts until a minute after its last."""

    __slots__ = ("amount", "first", "gone", "last")

    def __init__(self, now: int) -> None:
        self.first = self.last = now
        self.amount = 0
        self.gone = False


class _Window:
    """The sum of the last minute, in at most 242 slots.

    It is never too small: a slot counts until its last part is a minute old, its first parts a
    quarter of a second longer than they had to.
    """

    __slots__ = ("_slots", "total")

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque()
        self.total = 0

    def move(self, now: int) -> None:
        """Forget what is a minute old."""
        while self._slots and now - self._slots[0].last >= _MINUTE:
            slot = self._slots.popleft()
            slot.gone = True
            self.total -= slot.amount

    def add(self, now: int, amount: int) -> _Slot:
        """Count `amount`; its slot is what `give_back` takes."""
        if not self._slots or now - self._slots[-1].first >= _SLOT:
            self._slots.append(_Slot(now))
        slot = self._slots[-1]
        slot.last = now
        slot.amount += amount
        self.total += amount
        return slot

    def give_back(self, slot: _Slot, amount: int) -> None:
        """Count `amount` of the slot no longer."""
        if not slot.gone:
            slot.amount -= amount
            self.total -= amount

    def wait(self, now: int, excess: int) -> float:
        """Seconds until at least `excess` of the total has gone, in whole milliseconds."""
        for slot in self._slots:
            excess -= slot.amount
            if excess <= 0:
                return math.ceil((slot.last + _MINUTE - now) / 1e6) / 1e3
        return _NEVER


class _Use:
    """What one key uses."""

    __slots__ = ("active", "day", "day_tokens", "requests", "tokens")

    def __init__(self, day: int, day_tokens: int = 0) -> None:
        self.active = 0
        self.requests = _Window()
        self.tokens = _Window()
        self.day = day
        self.day_tokens = day_tokens

    def move(self, now: int, day: int) -> None:
        """Go on to `now`. A clock that is set back does not bring an old day again."""
        self.requests.move(now)
        self.tokens.move(now)
        if day > self.day:
            self.day, self.day_tokens = day, 0

    @property
    def idle(self) -> bool:
        """Whether it is what a new one would be."""
        counted = self.active or self.requests.total or self.tokens.total or self.day_tokens
        return not counted


class _Charge(NamedTuple):
    """Tokens that were reserved at once."""

    slot: _Slot
    day: int
    tokens: int


class _Refusal(NamedTuple):
    limit: LimitName
    value: int
    used: int
    wait: float
    """Seconds; infinite: never."""


class Admission:
    """One request that was let in. Use from any thread; `with` leaves at the end."""

    def __init__(self, quotas: "Quotas", caller: Caller, use: _Use | None) -> None:
        self._quotas = quotas
        self._use = use
        self._settled = self._left = False
        self._charges: list[_Charge] = []
        self.caller = caller

    def __enter__(self) -> "Admission":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def reserve(
        self, prompt_tokens: int, answer_tokens: int | None, at_most: int = UNLIMITED
    ) -> int:
        """Take tokens for a prompt and its answer; the answer tokens granted.

        They are those asked for, or where None was asked the most that the limits leave, up to
        `at_most` (the room in the context) and at least one. A request of several prompts may
        reserve for each. QuotaError where it does not fit; then nothing more is reserved.
        """
        if self._settled or self._left:
            raise InternalError("tokens are reserved before a request settles and leaves")
        if prompt_tokens < 0 or at_most < 0 or (answer_tokens or 0) < 0:
            raise InternalError(
                f"tokens are counted from 0: prompt {prompt_tokens}, answer {answer_tokens}, "
                f"at most {at_most}"
            )
        if self._use is None:
            return at_most if answer_tokens is None else answer_tokens
        granted, charge = self._quotas._take(
            self.caller, self._use, prompt_tokens, answer_tokens, at_most
        )
        self._charges.append(charge)
        return granted

    def settle(self, used_tokens: int) -> None:
        """Give back what was reserved and not used. What was used beyond it counts from now on.

        Only the first call counts. A request that leaves without it has used all it reserved.
        """
        if self._settled:
            return
        self._settled = True
        if self._use is not None:
            self._quotas._settle(self._use, self._charges, max(0, used_tokens))

    def leave(self) -> None:
        """Be no longer under way; again does nothing."""
        with self._quotas._lock:
            if not self._left and self._use is not None:
                self._use.active -= 1
            self._left = True


class Quotas:
    """The limits of all keys.

    `clock` gives nanoseconds that never go back, `wall` seconds since 1970; `used_today` what
    keys have used of this day already. Keys that use nothing are forgotten.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], float] = time.time,
        used_today: Mapping[str, int] | None = None,
    ) -> None:
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._swept = clock()
        today = self._today()
        self._uses = {key: _Use(today, used) for key, used in (used_today or {}).items()}

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self._uses)

    def enter(self, caller: Caller) -> Admission:
        """Let one request in, and count it; QuotaError where it is one too many."""
        limits = caller.limits
        if limits == Limits():
            return Admission(self, caller, None)
        with self._lock:
            now, today = self._clock(), self._today()
            self._sweep(now, today)
            use = self._uses.get(caller.key or "")
            if use is None:
                use = self._uses[caller.key or ""] = _Use(today)
            use.move(now, today)
            refused = []
            rate, together = limits.requests_per_minute, limits.concurrent
            if rate is not None and use.requests.total >= rate:
                wait = use.requests.wait(now, use.requests.total + 1 - rate)
                refused.append(_Refusal("requests_per_minute", rate, use.requests.total, wait))
            if together is not None and use.active >= together:
                refused.append(_Refusal("concurrent", together, use.active, _BUSY_SECONDS))
            if refused:
                raise _error(caller, refused, 1)
            use.requests.add(now, 1)
            use.active += 1
        return Admission(self, caller, use)

    def _take(
        self, caller: Caller, use: _Use, prompt: int, answer: int | None, at_most: int
    ) -> tuple[int, _Charge]:
        """Reserve tokens: the answer's, and what to settle."""
        least = prompt + (min(1, at_most) if answer is None else answer)
        minute, day = caller.limits.tokens_per_minute, caller.limits.tokens_per_day
        with self._lock:
            now, wall = self._clock(), self._wall()
            use.move(now, int(wall // _DAY))
            refused = []
            room = prompt + at_most
            if minute is not None:
                used = use.tokens.total
                if least > minute - used:
                    wait = use.tokens.wait(now, least + used - minute)
                    wait = _NEVER if least > minute else wait
                    refused.append(_Refusal("tokens_per_minute", minute, used, wait))
                room = min(room, minute - used)
            if day is not None:
                if least > day - use.day_tokens:
                    wait = math.ceil(((use.day + 1) * _DAY - wall) * 1e3) / 1e3
                    wait = _NEVER if least > day else wait
                    refused.append(_Refusal("tokens_per_day", day, use.day_tokens, wait))
                room = min(room, day - use.day_tokens)
            if refused:
                raise _error(caller, refused, least)
            granted = room - prompt if answer is None else answer
            return granted, self._charge(use, now, prompt + granted)

    def _charge(self, use: _Use, now: int, tokens: int) -> _Charge:
        use.day_tokens += tokens
        return _Charge(use.tokens.add(now, tokens), use.day, tokens)

    def _settle(self, use: _Use, charges: list[_Charge], used: int) -> None:
        with self._lock:
            now = self._clock()
            use.move(now, self._today())
            # What was used counts as the newest of what was reserved: it leaves the minute last.
            for charge in reversed(charges):
                unused = max(0, charge.tokens - used)
                used = max(0, used - charge.tokens)
                use.tokens.give_back(charge.slot, unused)
                if charge.day == use.day:
                    use.day_tokens -= unused
            if used:
                self._charge(use, now, used)

    def _today(self) -> int:
        return int(self._wall() // _DAY)

    def _sweep(self, now: int, today: int) -> None:
        """Once a minute: forget keys that use nothing."""
        if now - self._swept < _MINUTE:
            return
        self._swept = now
        for key, use in list(self._uses.items()):
            use.move(now, today)
            if use.idle:
                del self._uses[key]


def _error(caller: Caller, refused: list[_Refusal], wanted: int) -> QuotaError:
    """The error of the limit that has to be waited for longest."""
    worst = max(refused, key=lambda refusal: refusal.wait)
    words = f"{worst.value:,} {_WORDS[worst.limit]}"
    if worst.limit.startswith("tokens"):
        words += f"; {worst.used:,} are used or reserved, and this request needs {wanted:,}"
    return QuotaError(
        f"the key {caller.name!r} may use {words}: {_advice(worst)}",
        limit=worst.limit,
        value=worst.value,
        retry_after=None if worst.wait == _NEVER else worst.wait,
    )


def _advice(refusal: _Refusal) -> str:
    if refusal.wait == _NEVER:
        return "it can never fit, so make it shorter or ask for fewer tokens"
    if refusal.limit == "concurrent":
        return "try again when one has ended"
    return f"try again in {refusal.wait:,.3f} seconds"
