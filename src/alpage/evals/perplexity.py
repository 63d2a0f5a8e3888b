"""Perplexity: how surprised a model is by a text. The protocol is llama.cpp's `llama-perplexity`.

The text is cut into chunks of `context` tokens that do not overlap; where the tokenizer adds a
begin-of-text token, that token takes the place of the first of each chunk. Only tokens of the
second half are scored: each of them has at least `context / 2` tokens before it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import InputError, UsageError
from alpage.engine.protocol import Runner, StepBatch
from alpage.engine.sampling import score_rows

Ids = NDArray[np.int32]
LEAST_CONTEXT = 8

_PROMPT_ROWS = 512
_LOGIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The exponential of `loss`, which is the mean negative log-probability of a scored token."""

    value: float
    standard_error: float
    loss: float
    """Natural log."""
    scored: int
    """Tokens that count."""
    chunks: int
    context: int


Progress = Callable[[int, int, Perplexity], None]
"""Told after each chunk: chunks done, chunks in all, the figure so far."""


class Scorer(Protocol):
    """Logprobs (natural log) of `tokens[first + 1:]`, each given all tokens before it."""

    def __call__(self, tokens: Ids, first: int, /) -> NDArray[np.float64]:
        """Float64 [len(tokens) - 1 - first]."""
        ...


def perplexity(
    score: Scorer,
    tokens: Sequence[int],
    *,
    context: int = 512,
    bos: int | None = None,
    chunks: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Score the first `chunks` chunks of `tokens` (default: all).

    `tokens` are those of the text, beginning with `bos` if the tokenizer adds one, and `bos` is
    None if it does not. UsageError for numbers that make no sense; InputError when the text is
    shorter than two chunks, or shorter than the chunks asked for.
    """
    ids = np.asarray(tokens, np.int32)
    count = _chunk_count(len(ids), context, chunks)
    first = context // 2
    losses: list[NDArray[np.float64]] = []
    result = _result(losses, context)
    for index in range(count):
        chunk = ids[index * context : (index + 1) * context].copy()
        if bos is not None:
            chunk[0] = bos
        losses.append(-score(chunk, first))
        result = _result(losses, context)
        if progress is not None:
            progress(index + 1, count, result)
    return result


def runner_scorer(runner: Runner) -> Scorer:
    """Score with one engine's forward pass; the runner's pages must hold the context."""

    def score(tokens: Ids, first: int) -> NDArray[np.float64]:
        rows = len(tokens) - 1  # the last one predicts what lies behind the chunk
        pages = -(-rows // runner.page_size)
        table = np.arange(pages, dtype=np.int32)[None]
        at_once = max(16, _LOGIT_BYTES // (4 * runner.config.vocab_size))
        found: list[float] = []
        start = 0
        while start < rows:
            # What comes before the scored rows asks for no logits, which take the most memory.
            free = min(_PROMPT_ROWS, first - start) if start < first else 0
            stop = min(rows, start + free + min(at_once, _PROMPT_ROWS - free))
            outputs = np.arange(max(start, first), stop, dtype=np.int32)
            logits = runner.forward(
                StepBatch(
                    tokens[start:stop],
                    np.arange(start, stop, dtype=np.int32),
                    np.zeros(stop - start, np.int32),
                    table,
                    outputs - start,
                )
            )
            if len(outputs):
                found += score_rows(logits, tokens[outputs + 1], 0)[0]
            start = stop
        return np.array(found)

    return score


def _chunk_count(tokens: int, context: int, chunks: int | None) -> int:
    if context < LEAST_CONTEXT:
        raise UsageError(f"context must be at least {LEAST_CONTEXT} tokens, not {context}")
    if chunks is not None and chunks < 1:
        raise UsageError(f"chunks must be at least 1, not {chunks}")
    needed = max(2, chunks or 0)
    if tokens < needed * context:
        raise InputError(
            f"the text has {tokens:,} tokens; {needed} chunks of {context} need "
            f"{needed * context:,}: take a longer text, or a smaller context"
        )
    return chunks or tokens // context


def _result(losses: Sequence[NDArray[np.float64]], context: int) -> Perplexity:
    values = np.concatenate(losses) if losses else np.empty(0)
    if not len(values):
        return Perplexity(math.nan, math.nan, math.nan, 0, 0, context)
    mean, spread = float(values.mean()), float(values.std())  # as llama.cpp: over n, not n - 1
    value = math.exp(mean)
    error = value * spread / math.sqrt(len(values) - 1)
    return Perplexity(value, error, mean, len(values), len(losses), context)
