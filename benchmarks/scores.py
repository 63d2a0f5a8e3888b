"""Perplexity on the same tokens by two engines, or of two files, and how exact a difference is."""

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpage.evals.perplexity import Ids, Scorer, perplexity


@dataclass(frozen=True, slots=True)
class Scores:
    """Perplexity, and the loss of every scored token (natural log)."""

    value: float
    error: float
    losses: NDArray[np.float64]
    seconds: float

    def numbers(self) -> dict[str, float]:
        """What is kept of it in a report."""
        return {"perplexity": self.value, "standard_error": self.error}


def score(scorer: Scorer, ids: list[int], *, context: int, bos: int | None, chunks: int) -> Scores:
    """Perplexity on `ids`, with the losses behind it."""
    kept: list[NDArray[np.float64]] = []

    def keeping(tokens: Ids, first: int, /) -> NDArray[np.float64]:
        kept.append(scorer(tokens, first))
        return kept[-1]

    start = time.perf_counter()
    found = perplexity(keeping, ids, context=context, bos=bos, chunks=chunks)
    seconds = time.perf_counter() - start
    return Scores(found.value, found.standard_error, -np.concatenate(kept), seconds)


def deviation(own: Scores, right: Scores) -> dict[str, float]:
    """Relative deviation of the perplexity; its error is that of the paired token losses."""
    difference = own.losses - right.losses
    ratio = own.value / right.value
    error = float(difference.std()) / math.sqrt(len(difference)) * ratio
    return {"deviation": ratio - 1, "deviation_error": error}
