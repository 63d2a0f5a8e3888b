"""Choosing the next token: what a request carries from step to step, and the plain reference.

A sampler is a pure function of one row of logits, the tokens so far, the parameters, the seed and
the step; so the same request gives the same tokens in every run and in any company.
"""

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import FormatError, InternalError
from alpage.core.types import SamplingParams
from alpage.engine.protocol import Top

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Mask = NDArray[np.uint32]
"""Ids that may be chosen, one bit each, the lowest of a word first: [ceil(vocab / 32)]."""

_WORD = (1 << 64) - 1
_BIAS_LIMIT = 1e9  # an infinite bias would turn the softmax into inf - inf
_REDRAW = 0x5851F42D4C957F2D  # makes another seed, for the second draw of a step
_NOTHING = -2  # what a sampler says where nothing is allowed
_SCORED_AT_ONCE = 4  # rows; a block and its exponentials stay in the processor's cache


class Sampler(Protocol):
    """One row of logits to one token: `sample_reference` says what each argument means."""

    def __call__(
        self,
        logits: Floats,
        history: Ids,
        prompt_length: int,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        bias_ids: Ids,
        bias_values: Floats,
        seed: int,
        step: int,
        top_logprobs: int,
        allowed: Mask | None = None,
        /,
    ) -> tuple[int, float | None, list[int], list[float]]:
        """Token, its logprob, ids and logprobs of the most likely tokens."""
        ...


def uniform(seed: int, step: int) -> float:
    """The draw of `step`, in [0, 1): splitmix64's output number `step + 1` from state `seed`."""
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return float((z ^ (z >> 31)) >> 11) * 2.0**-53


def sample_reference(
    logits: Floats,
    history: Ids,
    prompt_length: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    presence_penalty: float,
    frequency_penalty: float,
    bias_ids: Ids,
    bias_values: Floats,
    seed: int,
    step: int,
    top_logprobs: int,
    allowed: Mask | None = None,
) -> tuple[int, float | None, list[int], list[float]]:
    """Choose a token, plainly: the oracle of the native sampler. Everything in double precision.

    `logits` is float32 [vocab]; `history` holds the prompt (`prompt_length` ids) and the answer so
    far. In this order: ids whose bit in `allowed` is 0 are left out; bias is added; the repetition
    penalty divides positive and multiplies negative logits of every distinct token of the history;
    the presence penalty is subtracted once and the frequency penalty once per occurrence for tokens
    of the answer. Temperature 0 takes the largest (the lowest id of equals). Otherwise logits are
    divided by the temperature; of the tokens sorted by falling logit (equals by rising id) the
    `top_k` first stay (0: all), then the shortest head whose probability reaches `top_p` of what
    stayed, then those with at least `min_p` times the largest probability; the draw picks where
    the running sum passes `uniform(seed, step)` times the sum.

    Returns the token, or -1 when a logit is NaN or the largest is infinite, or -2 when no token
    that can be is allowed; and, from the unmodified logits, its logprob with the `top_logprobs`
    most likely ids and logprobs (-1: no logprobs at all).
    """
    if not np.isfinite(logits.max()):  # NaN spreads to the largest
        return -1, None, [], []
    scores = _penalised(
        logits, history, prompt_length, repetition_penalty, presence_penalty,
        frequency_penalty, bias_ids, bias_values,
    )  # fmt: skip
    if allowed is not None:
        bits = np.unpackbits(allowed.view(np.uint8), count=len(scores), bitorder="little")
        if not (np.isfinite(logits) & (bits == 1)).any():
            return -2, None, [], []
        scores[bits == 0] = -np.inf
    if temperature == 0:
        token = int(np.argmax(scores))
    else:
        token = _draw(scores / temperature, top_k, top_p, min_p, uniform(seed, step))
    if top_logprobs < 0:
        return token, None, [], []
    plain = logits.astype(np.float64)
    plain -= plain.max()
    logprobs = plain - np.log(np.exp(plain).sum())
    top = np.argsort(-logits, kind="stable")[:top_logprobs]
    return token, float(logprobs[token]), top.tolist(), logprobs[top].tolist()


def _penalised(
    logits: Floats,
    history: Ids,
    prompt_length: int,
    repetition: float,
    presence: float,
    frequency: float,
    bias_ids: Ids,
    bias_values: Floats,
) -> NDArray[np.float64]:
    scores = logits.astype(np.float64)
    scores[bias_ids] += bias_values
    if repetition != 1.0:
        seen = np.unique(history)
        old = scores[seen]
        scores[seen] = np.where(old > 0, old / repetition, old * repetition)
    if presence or frequency:
        answered, counts = np.unique(history[prompt_length:], return_counts=True)
        scores[answered] -= presence + frequency * counts
    return scores


def _draw(scores: NDArray[np.float64], top_k: int, top_p: float, min_p: float, draw: float) -> int:
    order = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores > -np.inf)]
    if top_k:
        order = order[:top_k]
    weights = np.exp(scores[order] - scores[order[0]])
    if top_p < 1:
        running = np.cumsum(weights)
        weights = weights[: int(np.searchsorted(running, top_p * running[-1])) + 1]
    if min_p:
        weights = weights[weights >= min_p * weights[0]]
    running = np.cumsum(weights)
    # side="right": the first place whose running sum is larger than the draw.
    place = int(np.searchsorted(running, draw * running[-1], side="right"))
    return int(order[min(place, len(running) - 1)])


class SamplingState:
    """One request's arguments of the sampler, prepared once, and the tokens that grow.

    `history` starts as the prompt; `append` adds what was sampled. Without a seed in `params` one
    is drawn here, and kept: a recomputed step draws the same token again.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], sampler: Sampler) -> None:
        self._params = params
        self._sampler = sampler
        self._history: Ids = np.array([*prompt, *([0] * 64)], np.int32)
        self._length = self._prompt_length = len(prompt)
        self._bias_ids: Ids = np.array(list(params.logit_bias), np.int32)
        values = np.array(list(params.logit_bias.values()), np.float32)
        self._bias_values: Floats = np.clip(values, -_BIAS_LIMIT, _BIAS_LIMIT)
        self._seed = int.from_bytes(os.urandom(8)) if params.seed is None else params.seed

    @property
    def answered(self) -> int:
        """Tokens sampled so far: the number of the next step."""
        return self._length - self._prompt_length

    @property
    def history(self) -> Ids:
        """The prompt and what was sampled after it."""
        return self._history[: self._length]

    def append(self, token: int) -> None:
        """Take `token` into the history that penalties look at."""
        if self._length == len(self._history):
            self._history = np.concatenate([self._history, np.zeros_like(self._history)])
        self._history[self._length] = token
        self._length += 1

    def sample(self, logits: Floats, allowed: Mask | None = None) -> tuple[int, float | None, Top]:
        """Token, logprob and most likely tokens for one row.

        With `allowed`: the second draw of a step whose first one was not among those.
        FormatError if it is not finite, InternalError if nothing that can be is `allowed`.
        """
        p = self._params
        seed = self._seed if allowed is None else self._seed ^ _REDRAW
        token, logprob, ids, logprobs = self._sampler(
            logits, self.history, self._prompt_length, p.temperature, p.top_k,
            p.top_p, p.min_p, p.repetition_penalty, p.presence_penalty, p.frequency_penalty,
            self._bias_ids, self._bias_values, seed, self.answered,
            -1 if p.top_logprobs is None else p.top_logprobs, allowed,
        )  # fmt: skip
        if token == _NOTHING:
            raise InternalError("the constraint of this answer allows no token at all")
        if token < 0:
            raise damaged()
        return token, logprob, tuple(zip(ids, logprobs, strict=True))


def damaged() -> FormatError:
    """The error of a request whose logits or states are not finite."""
    return FormatError("the model produced NaN or infinite logits: its weights are damaged")


def score_rows(logits: Floats, targets: Ids, top: int) -> tuple[list[float], list[Top]]:
    """Logprobs of `targets` [rows] under `logits` [rows, vocab], and the `top` most likely ids.

    Exponentials and (pairwise) sums in single precision: within 2e-6 of all in double.
    """
    found: list[float] = []
    tops: list[Top] = []
    for start in range(0, len(targets), _SCORED_AT_ONCE):
        block = logits[start : start + _SCORED_AT_ONCE]
        largest = block.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            weights = block - largest
            sums = np.exp(weights, out=weights).sum(axis=1).astype(np.float64)
        norm = largest[:, 0] + np.log(sums)
        rows = np.arange(len(block))
        values = block[rows, targets[start : start + len(block)]] - norm
        if not np.isfinite(values).all():
            raise damaged()
        found += values.tolist()
        tops += [_most_likely(row, float(n), top) for row, n in zip(block, norm, strict=True)]
    return found, tops


def _most_likely(row: Floats, norm: float, count: int) -> Top:
    if not count:
        return ()
    order = np.argsort(-row, kind="stable")[:count]
    return tuple((int(i), float(row[i]) - norm) for i in order)
