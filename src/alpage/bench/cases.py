"""What is measured: one definition that every engine follows.

All figures of speed are tokens per second at the level of one forward pass: token ids are given,
logits come out, nothing is sampled. The two `engine` cases go through Alpage's scheduler and
sampler as well and show what those cost. `memory` is no case of a model: the rate at which this
machine reads, beside which the rate of decoding is seen.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from alpage.bench.report import Unit

Kind = Literal["prefill", "decode", "engine", "memory"]


@dataclass(frozen=True, slots=True)
class Case:
    """One figure.

    prefill: `tokens` prompt tokens in one pass, logits of the last one. decode: `tokens` steps of
    one token for each of `sequences` sequences that already hold `depth` tokens, logits of every
    row. engine: the same steps as decode from an empty cache, through the scheduler, greedy.
    memory: reads as many bytes as there are weights (at least 64 MB, at most 1 GB), several times.
    """

    kind: Kind
    tokens: int = 0
    depth: int = 0
    sequences: int = 1

    @property
    def name(self) -> str:
        """What a person reads."""
        if self.kind == "prefill":
            return f"prefill {self.tokens}"
        if self.kind == "memory":
            return "reading memory"
        together = f", {self.sequences} together" if self.sequences > 1 else ""
        if self.kind == "engine":
            return f"decode through the scheduler{together}"
        deep = f" at depth {self.depth:,}" if self.depth and self.sequences == 1 else ""
        return f"decode{deep}{together}"

    @property
    def is_own(self) -> bool:
        """Only Alpage is asked: it is about the machine, or about a part that peers lack."""
        return self.kind in ("engine", "memory")

    @property
    def unit(self) -> Unit:
        """Of what is measured."""
        return "GB/s" if self.kind == "memory" else "tokens/s"

    @property
    def positions(self) -> int:
        """Cache places that one sequence needs."""
        return self.depth + self.tokens

    def as_json(self) -> dict[str, Any]:
        """For `of`, on the other side of a pipe."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(**values)


DECODE, MEMORY = Case("decode", 64), Case("memory")
FULL = (
    Case("prefill", 128),
    Case("prefill", 512),
    DECODE,
    MEMORY,
    Case("decode", 64, depth=1024),
    Case("decode", 32, depth=128, sequences=4),
    Case("decode", 32, depth=128, sequences=8),
    Case("decode", 32, depth=128, sequences=16),
    Case("engine", 64),
    Case("engine", 32, sequences=16),
)
QUICK = (
    Case("prefill", 128),
    Case("decode", 16),
    Case("decode", 8, depth=128, sequences=4),
    Case("engine", 16),
)


LOAD, START = "load", "start"
"""The other figures: loading; whole processes, with their memory."""


def plan(
    context_length: int, *, quick: bool = False, only: Sequence[str] = ()
) -> tuple[list[Case], list[Case]]:
    """The cases to measure, and those left out because the model's context is too short.

    `only`: names of cases; none of them means all.
    """
    cases = [case for case in (QUICK if quick else FULL) if not only or case.name in only]
    fits = [case for case in cases if case.positions <= context_length]
    return fits, [case for case in cases if case not in fits]


def names(*, quick: bool = False) -> list[str]:
    """What `only` may ask for."""
    return [*(case.name for case in (QUICK if quick else FULL)), LOAD, START]


def token_ids(count: int, vocab_size: int) -> NDArray[np.int32]:
    """`count` ids that are the same in every run: speed does not depend on which they are."""
    return np.random.default_rng(2).integers(0, vocab_size, count, dtype=np.int32)
