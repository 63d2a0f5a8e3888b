"""A circuit breaker: a server that keeps failing is left alone for a while, then tried once."""

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Closed it lets all through; open, nobody; half-open, one whose fate decides.

    `failures` in a row open it, for `seconds`. `clock` gives seconds.
    """

    def __init__(
        self,
        failures: int = 5,
        seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._failures = 0
        self._opened: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """What it does with the next request; "open" also while the one that tries is under way."""
        if self._opened is None:
            return "closed"
        return "half-open" if not self._probing and self.wait == 0 else "open"

    @property
    def wait(self) -> float:
        """Seconds until somebody may try again; 0 where somebody may now or is doing so."""
        if self._opened is None:
            return 0.0
        return max(0.0, self._opened + self._seconds - self._clock())

    def enter(self) -> bool:
        """Whether a request may go; one that may has to tell how it ended."""
        state = self.state
        self._probing = self._probing or state == "half-open"
        return state != "open"

    def succeeded(self) -> None:
        """It was answered."""
        self._failures = 0
        self._opened = None
        self._probing = False

    def failed(self) -> None:
        """It was not, by the server's fault."""
        self._failures += 1
        if self._probing or self._failures >= self._most:
            self._opened = self._clock()
        self._probing = False

    def left(self) -> None:
        """It ended in a way that says nothing about the server."""
        self._probing = False
