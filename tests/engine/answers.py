"""What the tests of the scheduler share: running requests, and computing answers plainly."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.engine.fakes import FakeConstraint, expected_logits, expected_states, packed

from alpage.core.types import SamplingParams
from alpage.engine.protocol import (
    EmbeddingEvent,
    EmbedRequest,
    Event,
    FailEvent,
    FinishEvent,
    PromptEvent,
    Request,
    TokenEvent,
)
from alpage.engine.sampling import SamplingState, sample_reference, score_rows
from alpage.engine.scheduler import Scheduler


def request(prompt: Sequence[int], **sampling: Any) -> Request:
    return Request(prompt, SamplingParams(**({"seed": 1, "max_tokens": 6} | sampling)))


def run(scheduler: Scheduler, steps: int = 10_000) -> dict[int, list[Event]]:
    """Step until nothing is left to do (or `steps` are over)."""
    events: dict[int, list[Event]] = defaultdict(list)
    while scheduler.busy and steps:
        for number, event in scheduler.step():
            events[number].append(event)
        steps -= 1
    return events


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [event.token for event in events if isinstance(event, TokenEvent)]


def end_of(events: Sequence[Event]) -> FinishEvent:
    assert isinstance(events[-1], FinishEvent), events[-1]
    assert not any(isinstance(event, FinishEvent | FailEvent) for event in events[:-1])
    return events[-1]


def error_of(events: Sequence[Event]) -> BaseException:
    assert isinstance(events[-1], FailEvent), events[-1]
    return events[-1].error


def expected(asked: Request, limit: int) -> tuple[list[int], str]:
    """Tokens and finish reason of `asked`, computed plainly: no pages, no batch, no chunks."""
    window, params, answer = list(asked.prompt), asked.sampling, list[int]()
    state = SamplingState(params, asked.prompt, sample_reference)
    rule = asked.constraint.again() if isinstance(asked.constraint, FakeConstraint) else None
    stops = {*params.stop_token_ids, *(() if params.ignore_eos else asked.eos_ids)}
    while True:
        logits = expected_logits(window)
        token, _, _ = state.sample(logits)
        if rule is not None and not (rule.complete if token in stops else rule.allows(token)):
            mask = rule.allowed()
            if rule.complete and not mask.any():
                return answer, "stop"
            token, _, _ = state.sample(logits, mask | packed(stops) if rule.complete else mask)
        if token in stops:
            return answer, "stop"
        state.append(token)
        answer.append(token)
        window.append(token)
        if rule is not None:
            rule.accept(token)
            if rule.ended:
                return answer, "stop"
        if len(answer) == params.max_tokens:
            return answer, "length"
        if len(window) > limit:
            if params.context_policy == "stop":
                return answer, "context"
            window = window[: min(4, limit // 4)] + window[-(limit // 2) :]


def check_result(one: Request | EmbedRequest, events: list[Event]) -> None:
    """The scores or the vector, which come first, against the same without any cache."""
    first, prompt = events[0], list(one.prompt)
    if isinstance(one, EmbedRequest):
        assert isinstance(first, EmbeddingEvent)
        mean = expected_states(prompt).mean(axis=0)
        assert first.vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
        assert first.vector.dtype == np.float32
        return
    assert isinstance(first, PromptEvent)
    assert (first.logprobs[0], first.top[0]) == (None, ())
    if len(prompt) == 1:
        return
    logits = np.stack([expected_logits(prompt[: i + 1]) for i in range(len(prompt) - 1)])
    count = one.sampling.top_logprobs or 0
    logprobs, tops = score_rows(logits, np.array(prompt[1:], np.int32), count)
    assert list(first.logprobs[1:]) == pytest.approx(logprobs, abs=1e-6)
    for found, top in zip(first.top[1:], tops, strict=True):
        assert [token for token, _ in found] == [token for token, _ in top]
