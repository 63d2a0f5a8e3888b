"""What users ask of a server: when, how long, and which part of their prompts they share.

Requests are drawn once, from a seed, and every engine gets the same ones. Nobody cancels.

The mean lengths of messages and answers are those of LMSYS-Chat-1M (Zheng et al., 2023, table 1:
69.5 tokens a prompt, 214.5 a response). The rest is assumed: lengths are log-normal, with a
standard deviation of the logarithm of 1.0 for messages and 0.7 for answers, cut at 1/16 and 4
times their mean; three quarters of the requests begin with one of four system prompts, the most
popular one with two fifths.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from alpage.core.errors import InputError

Passage = Callable[[Generator, int], list[int]]
"""So many token ids of a prompt."""

MESSAGE_SPREAD, ANSWER_SPREAD = 1.0, 0.7
"""Standard deviations of the logarithms of lengths."""
LEAST, MOST = 1 / 16, 4
"""Bounds of lengths, in means."""
SYSTEM_LENGTHS = (0.5, 0.75, 1.0, 1.75)
"""Of each system prompt, in means."""
SYSTEM_SHARES = (0.4, 0.2, 0.1, 0.05)
"""Of the requests that begin with each system prompt; the others have none."""
_FEWEST = 2  # tokens of an answer: one has no time between tokens


@dataclass(frozen=True, slots=True)
class Mix:
    """Mean lengths in tokens."""

    message: float = 69.5
    answer: float = 214.5
    system: float = 480.0

    @property
    def longest(self) -> int:
        """Cache places that a request can need, its begin-of-text token included."""
        parts = _bounds(self.message)[1], _bounds(self.answer)[1], max(self.system_lengths)
        return 1 + sum(parts)

    @property
    def system_lengths(self) -> list[int]:
        """Tokens of each system prompt."""
        return [max(1, round(self.system * times)) for times in SYSTEM_LENGTHS]


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked of a server.

    rate: Poisson arrivals, `value` a second, whatever the server has finished (open loop).
    together: `value` requests at a time, each replaced when it ends (closed loop). `slots`:
    requests for which the caches have room; llama.cpp answers so many at a time.
    """

    kind: Literal["rate", "together"]
    value: float
    slots: int
    requests: int

    @property
    def name(self) -> str:
        """What a person reads."""
        return f"{self.value:g} {'a second' if self.kind == 'rate' else 'together'}"

    @property
    def together(self) -> int | None:
        """Requests at a time; None in the open loop."""
        return int(self.value) if self.kind == "together" else None

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class TimedRequest:
    """A prompt, and how many tokens are sampled after it whatever they are.

    `at`: seconds after the start (open loop), else 0.
    """

    at: float
    prompt: list[int]
    answer_tokens: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """For `of`, on the other side of a pipe."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(**values)


class Traffic:
    """Requests drawn from `seed`: the same in every process and for every engine.

    Every prompt begins with `begin`. System prompts depend on the seed alone, everything else on
    the load and the round too, so that no round asks what an earlier one has asked.
    """

    def __init__(
        self, mix: Mix, passage: Passage, seed: int, begin: list[int] | None = None
    ) -> None:
        self._mix = mix
        self._passage = passage
        self._seed = seed
        self._begin = begin or []
        random = np.random.default_rng([seed])
        self.system_prompts = [passage(random, length) for length in mix.system_lengths]

    def requests(self, load: Load, round_number: int) -> list[TimedRequest]:
        """The requests of one round, in the order of their arrival."""
        kind = 0 if load.kind == "rate" else 1
        random = np.random.default_rng([self._seed, kind, round(1000 * load.value), round_number])
        count = load.requests
        times = arrivals(random, load.value, count) if kind == 0 else np.zeros(count)
        messages = lengths(random, self._mix.message, MESSAGE_SPREAD, count)
        answers = lengths(random, self._mix.answer, ANSWER_SPREAD, count)
        shares = [*SYSTEM_SHARES, 1 - sum(SYSTEM_SHARES)]
        systems = random.choice(len(shares), count, p=shares)
        seeds = random.integers(0, 1 << 31, count)
        prefixes = [*self.system_prompts, []]
        return [
            TimedRequest(
                at=float(times[i]),
                prompt=self._begin + prefixes[systems[i]] + self._passage(random, int(messages[i])),
                answer_tokens=int(answers[i]),
                seed=int(seeds[i]),
            )
            for i in range(count)
        ]


def arrivals(random: Generator, rate: float, count: int) -> NDArray[np.float64]:
    """Seconds at which a Poisson process of `rate` events a second has its events; the first at 0.

    [count]
    """
    times = np.cumsum(random.exponential(1 / rate, count))
    return np.asarray(times - times[0], np.float64)


def lengths(random: Generator, mean: float, spread: float, count: int) -> NDArray[np.int64]:
    """Log-normal lengths [count] with the given mean before they are cut to their bounds."""
    drawn = random.lognormal(np.log(mean) - spread**2 / 2, spread, count)
    return np.clip(np.rint(drawn), *_bounds(mean)).astype(np.int64)


def from_vocabulary(ids: NDArray[np.int32]) -> Passage:
    """Passages of ids drawn evenly from `ids`."""
    return lambda random, count: random.choice(ids, count).tolist()


def from_text(ids: NDArray[np.int32]) -> Passage:
    """Passages that begin anywhere in a text of `ids`, and go on at its beginning after its end."""
    if not len(ids):
        raise InputError("the text for prompts is empty; give one with a few thousand words")

    def passage(random: Generator, count: int) -> list[int]:
        first = int(random.integers(len(ids)))
        found: list[int] = np.take(ids, np.arange(first, first + count), mode="wrap").tolist()
        return found

    return passage


def _bounds(mean: float) -> tuple[int, int]:
    least = max(_FEWEST, round(mean * LEAST))
    return least, max(least, round(mean * MOST))
