"""Random arrivals, kinds, cancels and failures on tiny page pools."""

import random
from collections import defaultdict
from typing import Any, get_args

import pytest
from tests.engine.answers import check_result, expected, tokens_of
from tests.engine.fakes import NAN_TOKEN, FakeConstraint, FakeRunner

from alpage.core.errors import FormatError
from alpage.core.types import SamplingParams
from alpage.engine.policy import PolicyName, make_policy
from alpage.engine.protocol import (
    EmbedRequest,
    Event,
    FailEvent,
    FinishEvent,
    PromptEvent,
    Request,
)
from alpage.engine.scheduler import Limits, Scheduler


@pytest.mark.parametrize("seed", range(30))
def test_storm(seed: int) -> None:
    """Random arrivals, kinds, cancels and failures on a tiny pool: nothing leaks, all is right."""
    chance = random.Random(seed)
    pages = chance.choice([4, 7, 16, 64])
    runner = FakeRunner(pages=pages)
    rows = chance.choice([1, 3, 16, 64])
    limits = Limits(rows, chance.choice([1, 3]), chance.randint(1, rows))
    policy = make_policy(chance.choice(get_args(PolicyName)))
    scheduler = Scheduler(runner, context=chance.choice([24, 64]), limits=limits, policy=policy)
    limit = min(scheduler.context, pages * 4)
    asked: dict[int, Request | EmbedRequest] = {}
    events: dict[int, list[Event]] = defaultdict(list)
    ended: set[int] = set()
    broken = False
    while len(asked) < 25 or scheduler.busy:
        if len(asked) < 25 and chance.random() < 0.3:
            number = len(asked)
            asked[number] = _any_request(chance, limit)
            scheduler.add(number, asked[number])
        outcomes = scheduler.step()
        if chance.random() < 0.05 and asked:
            outcomes += scheduler.cancel(chance.choice(list(asked)))
        if chance.random() < 0.01 and not broken:
            broken, runner.fail = True, ValueError("storm")
        for number, event in outcomes:
            assert number not in ended, "an event after the last one"
            events[number].append(event)
            if isinstance(event, FinishEvent | FailEvent):
                ended.add(number)
    assert scheduler.free_pages == pages
    assert ended == set(asked)
    for number, one in asked.items():
        _check_outcome(one, events[number], limit)


def _any_request(chance: random.Random, limit: int) -> Request | EmbedRequest:
    shared = list(range(chance.choice([0, 0, 9, 16])))
    prompt = (shared + [chance.randrange(60) for _ in range(chance.randint(1, limit))])[:limit]
    who: dict[str, Any] = {"tenant": chance.choice("ab"), "priority": chance.randrange(3)}
    if chance.random() < 0.1:
        prompt[-1] = NAN_TOKEN
    if chance.random() < 0.2:
        return EmbedRequest(prompt, **who)
    sampling = SamplingParams(
        max_tokens=chance.randint(1, 30),
        temperature=chance.choice([0.0, 0.8]),
        top_k=chance.choice([0, 5]),
        repetition_penalty=chance.choice([1.0, 1.3]),
        seed=chance.randrange(100),
        stop_token_ids=[chance.randrange(60)],
        context_policy=chance.choice(["stop", "shift"]),
    )
    scored = chance.random() < 0.3
    constraint = None
    if chance.random() < 0.4 and prompt[-1] != NAN_TOKEN:  # forced tokens need no logits
        constraint = FakeConstraint(chance.randrange(1 << 30), chance.randint(0, 30))
    return Request(prompt, sampling, prompt_logprobs=scored, constraint=constraint, **who)


def _check_outcome(one: Request | EmbedRequest, events: list[Event], limit: int) -> None:
    last = events[-1]
    if isinstance(last, FailEvent):
        damaged = isinstance(last.error, FormatError) and NAN_TOKEN in one.prompt
        assert damaged or "storm" in str(last.error)
        return
    assert isinstance(last, FinishEvent)
    assert NAN_TOKEN not in one.prompt or last.reason == "cancelled"
    if isinstance(one, EmbedRequest) or NAN_TOKEN in one.prompt:
        if last.reason != "cancelled":
            check_result(one, events)
        return
    tokens, reason = expected(one, limit)
    if last.reason == "cancelled":
        assert tokens_of(events) == tokens[: len(tokens_of(events))]
    else:
        assert (tokens_of(events), last.reason) == (tokens, reason)
        assert last.usage.completion_tokens == len(tokens)
        assert len([e for e in events if isinstance(e, PromptEvent)]) == one.prompt_logprobs
        if one.prompt_logprobs:
            check_result(one, events)
