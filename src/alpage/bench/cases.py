"""What is measured: one definition that every engine follows.

All figures of speed are tokens per second at the level of one forward pass: token ids are given,
logits come out, nothing is sampled. The two `engine` cases go through Alpage's scheduler and
sampler as well and show what those cost.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

Kind = Literal["prefill", "decode", "engine"]


@dataclass(frozen=True, slots=True)
class Case:
    """One figure.

    prefill: `tokens` prompt tokens in one pass, logits of the last one. decode: `tokens` steps of
    one token for each of `sequences` sequences that already hold `depth` tokens, logits of every
    row. engine: the same steps as decode from an empty cache, through the scheduler, greedy.
    """

    kind: Kind
    tokens: int
    depth: int = 0
    sequences: int = 1

    @property
    def name(self) -> str:
        """What a person reads."""
        if self.kind == "prefill":
            return f"prefill {self.tokens}"
        together = f", {self.sequences} together" if self.sequences > 1 else ""
        if self.kind == "engine":
            return f"decode through the scheduler{together}"
        deep = f" at depth {self.depth:,}" if self.depth and self.sequences == 1 else ""
        return f"decode{deep}{together}"

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


FULL = (
    Case("prefill", 128),
    Case("prefill", 512),
    Case("decode", 64),
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


def plan(context_length: int, *, quick: bool = False) -> tuple[list[Case], list[Case]]:
    """The cases to measure, and those left out because the model's context is too short."""
    cases = QUICK if quick else FULL
    fits = [case for case in cases if case.positions <= context_length]
    return fits, [case for case in cases if case not in fits]


def token_ids(count: int, vocab_size: int) -> NDArray[np.int32]:
    """`count` ids that are the same in every run: speed does not depend on which they are."""
    return np.random.default_rng(2).integers(0, vocab_size, count, dtype=np.int32)
