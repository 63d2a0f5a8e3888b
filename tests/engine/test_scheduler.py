"""The scheduler over a fake runner: in any company, everyone gets the answer it gets alone."""

from typing import Any

import numpy as np
import pytest
from tests.engine.answers import check_result, end_of, error_of, expected, request, run, tokens_of
from tests.engine.fakes import NAN_TOKEN, FakeRunner, expected_logits

from alpage.core.errors import (
    AlpageError,
    CapacityError,
    FormatError,
    InputError,
    InternalError,
    UsageError,
)
from alpage.core.types import SamplingParams
from alpage.engine.protocol import (
    EmbedRequest,
    FinishEvent,
    PromptEvent,
    Request,
    TokenEvent,
)
from alpage.engine.sampling import SamplingState, sample_reference, score_rows
from alpage.engine.scheduler import Limits, Scheduler

SMALL = Limits(rows=16, scored=4, running=8)


def test_one_request_gets_what_the_model_says() -> None:
    scheduler = Scheduler(FakeRunner())
    asked = request([1, 2, 3], top_logprobs=2)
    scheduler.add(7, asked)
    events = run(scheduler)[7]
    tokens, reason = expected(asked, 64)
    assert (tokens_of(events), end_of(events).reason) == (tokens, reason)
    assert len(tokens) == 6
    usage = end_of(events).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 6, 9)
    assert usage.prefill_seconds > 0
    assert usage.decode_seconds > 0
    first = events[0]
    assert isinstance(first, TokenEvent)
    ((logprob,), (top,)) = score_rows(
        expected_logits([1, 2, 3])[None], np.array([first.token], np.int32), 2
    )
    assert first.logprob == pytest.approx(logprob, abs=1e-5)
    assert [token for token, _ in first.top] == [token for token, _ in top]
    assert scheduler.free_pages == 32


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 512])
def test_the_size_of_chunks_changes_nothing(rows: int) -> None:
    runner = FakeRunner()
    scheduler = Scheduler(runner, limits=Limits(rows=rows, running=1))
    asked = request(list(range(30)))
    scheduler.add(0, asked)
    assert tokens_of(run(scheduler)[0]) == expected(asked, 64)[0]
    assert max(runner.rows) == min(rows, 30)


def test_any_company_gives_the_same_answer_in_one_batch() -> None:
    runner = FakeRunner(pages=200)
    scheduler = Scheduler(runner, limits=SMALL)
    asked = [request(list(range(n, 2 * n + 1)), seed=n, max_tokens=3 + n) for n in range(20)]
    for number, one in enumerate(asked):
        scheduler.add(number, one)
    events = run(scheduler)
    for number, one in enumerate(asked):
        assert tokens_of(events[number]) == expected(one, 64)[0]
    assert max(runner.rows) == 16  # never more than the budget
    assert len(runner.rows) < sum(len(tokens_of(e)) for e in events.values())  # truly together


def test_answers_go_on_while_a_long_prompt_is_read() -> None:
    runner = FakeRunner(pages=64, context=200)
    scheduler = Scheduler(runner, limits=SMALL)
    scheduler.add(0, request([1], max_tokens=40))
    run(scheduler, steps=1)
    scheduler.add(1, request([2] * 100))
    for _ in range(6):  # 100 tokens take 7 steps of 15 rows beside one answer
        outcomes = scheduler.step()
        assert [number for number, _ in outcomes] == [0]
        assert runner.rows[-1] == 16
    assert {number for number, _ in scheduler.step()} == {0, 1}


def test_stop_ids_end_the_answer_and_are_not_part_of_it() -> None:
    free = expected(request([1, 2], ignore_eos=True, max_tokens=20), 64)[0]
    eos = next(token for token in free if free.index(token) >= 3)
    place = free.index(eos)
    for asked in (
        Request([1, 2], SamplingParams(seed=1), frozenset({eos})),
        request([1, 2], stop_token_ids=[eos], ignore_eos=True, max_tokens=20),
    ):
        scheduler = Scheduler(FakeRunner())
        scheduler.add(0, asked)
        events = run(scheduler)[0]
        assert tokens_of(events) == free[:place]
        end = end_of(events)
        assert (end.reason, end.stop_token) == ("stop", eos)
        assert end.usage.completion_tokens == place
    ignoring = Request(
        [1, 2], SamplingParams(seed=1, ignore_eos=True, max_tokens=20), frozenset({eos})
    )
    scheduler.add(1, ignoring)
    assert tokens_of(run(scheduler)[1]) == free


@pytest.mark.parametrize("pages", [16, 5])  # the context is full, or the pool is
def test_a_full_context_stops_with_a_reason(pages: int) -> None:
    scheduler = Scheduler(FakeRunner(pages=pages), context=24)
    limit = min(24, pages * 4)
    scheduler.add(0, request([1] * 10, max_tokens=None))
    events = run(scheduler)[0]
    assert end_of(events).reason == "context"
    assert len(tokens_of(events)) == limit - 10 + 1  # the last one would run at place `limit`
    assert scheduler.free_pages == pages


@pytest.mark.parametrize("context", [1, 2, 5, 24])
def test_a_full_context_shifts_where_asked(context: int) -> None:
    scheduler = Scheduler(FakeRunner(), context=context, limits=SMALL)
    asked = request([5], max_tokens=90, context_policy="shift", repetition_penalty=1.2)
    scheduler.add(0, asked)
    tokens, reason = expected_with_floor(asked, context)
    events = run(scheduler)[0]
    assert (tokens_of(events), end_of(events).reason) == (tokens, reason)
    assert reason == "length"
    assert scheduler.free_pages == 32


def expected_with_floor(asked: Request, limit: int) -> tuple[list[int], str]:
    """`expected`, for contexts so small that half of them is nothing."""
    if limit > 1:
        return expected(asked, limit)
    state, last, answer = SamplingState(asked.sampling, asked.prompt, sample_reference), 5, []
    for _ in range(90):
        last = state.sample(expected_logits([last]))[0]
        state.append(last)
        answer.append(last)
    return answer, "length"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([1] * 65, "the prompt has 65 tokens, but the context holds 64"),
        ([1, 64], "token id 64 is outside the vocabulary: ids go from 0 to 63"),
        ([-1, 3], "token id -1 is outside"),
        ([1 << 70], "each a whole number"),
        ([0.5], "each a whole number"),
        ([[1], [2]], "one list of token ids"),
    ],
)
@pytest.mark.parametrize("policy", ["stop", "shift"])
def test_prompts_that_cannot_run_are_refused(prompt: Any, message: str, policy: str) -> None:
    scheduler = Scheduler(FakeRunner())
    with pytest.raises(InputError, match=message):
        scheduler.add(0, request(prompt, context_policy=policy))
    with pytest.raises(InputError, match=message):
        scheduler.add(0, EmbedRequest(prompt))
    assert not scheduler.busy


def test_a_prompt_that_no_pool_can_hold_is_refused_and_a_full_one_runs() -> None:
    scheduler = Scheduler(FakeRunner(pages=4))
    with pytest.raises(CapacityError, match="has 17 tokens, but the cache holds 16"):
        scheduler.add(0, request([1] * 17))
    scheduler.add(1, request([1] * 16))
    events = run(scheduler)[1]
    assert (len(tokens_of(events)), end_of(events).reason) == (1, "context")
    with pytest.raises(UsageError, match="logit_bias names token id 64"):
        scheduler.add(2, request([1], logit_bias={64: 1.0}))


def test_a_request_waits_for_the_pages_of_its_prompt() -> None:
    scheduler = Scheduler(FakeRunner(pages=6), limits=SMALL)
    scheduler.add(0, request([1] * 16, max_tokens=4))
    scheduler.add(1, request([2] * 8, max_tokens=4))  # 2 pages are free, but one is soon needed
    scheduler.add(2, request([3], max_tokens=4))  # would fit, but it came later
    order = _finish_order(scheduler)
    assert order[0] == 0
    assert scheduler.preemptions == 0
    assert scheduler.free_pages == 6


def test_the_youngest_gives_way_and_its_answer_stays_the_same() -> None:
    scheduler = Scheduler(FakeRunner(pages=8), limits=SMALL)
    asked = [request([n, n], seed=n, max_tokens=20, presence_penalty=0.5) for n in range(4)]
    for number, one in enumerate(asked):
        scheduler.add(number, one)
    events = run(scheduler)
    assert scheduler.preemptions > 0
    for number, one in enumerate(asked):
        assert tokens_of(events[number]) == expected(one, 32)[0]
        assert end_of(events[number]).usage.completion_tokens == 20
    assert scheduler.free_pages == 8


def _finish_order(scheduler: Scheduler) -> list[int]:
    order = []
    while scheduler.busy:
        order += [number for number, event in scheduler.step() if isinstance(event, FinishEvent)]
    return order


def test_who_gave_way_comes_back_before_later_arrivals() -> None:
    scheduler = Scheduler(FakeRunner(pages=8), limits=Limits(rows=16, running=2))
    scheduler.add(0, request([1] * 4, max_tokens=20))
    scheduler.add(1, request([2] * 4, max_tokens=20))
    scheduler.add(2, request([3] * 28, max_tokens=2))
    assert _finish_order(scheduler) == [0, 1, 2]
    assert scheduler.preemptions > 0


def test_scores_and_embeddings_survive_giving_way() -> None:
    runner = FakeRunner(pages=12)
    scheduler = Scheduler(runner, limits=Limits(rows=4, scored=2, running=3))
    prompt = list(range(20))
    kinds: list[Request | EmbedRequest] = [
        Request(prompt, prompt_logprobs=True, answer=False),
        EmbedRequest(prompt),
    ]
    for number, kind in enumerate(kinds):
        scheduler.add(10 * number, request([1] * 4, max_tokens=40))
        run(scheduler, steps=20)
        scheduler.add(10 * number + 1, kind)
        before = scheduler.preemptions
        events = run(scheduler)[10 * number + 1]
        assert scheduler.preemptions > before
        check_result(kind, events)


def test_a_shift_does_not_hold_up_the_others() -> None:
    scheduler = Scheduler(FakeRunner(), limits=Limits(rows=4, running=4))
    scheduler.add(0, request([1] * 60, max_tokens=10, context_policy="shift"))
    run(scheduler, steps=17)
    scheduler.add(1, request([2], max_tokens=60))
    scheduler.step()
    while scheduler.busy:  # 36 tokens of the shifted request run again, 3 a step
        numbers = {number for number, _ in scheduler.step()}
        assert 1 in numbers or not numbers
    assert scheduler.preemptions == 0


def test_scored_rows_are_bounded_over_all_requests() -> None:
    runner = FakeRunner()
    scheduler = Scheduler(runner, limits=SMALL)
    for number in range(3):
        scheduler.add(number, Request([number] * 15, prompt_logprobs=True, answer=False))
    assert len(run(scheduler)) == 3
    assert max(runner.outputs) == 4


def test_cancel_takes_effect_before_the_next_step_and_frees_pages_at_once() -> None:
    runner = FakeRunner()
    scheduler = Scheduler(runner, limits=Limits(rows=4, running=1))
    scheduler.add(0, request([1] * 30))
    scheduler.add(1, request([2] * 3))
    scheduler.step()
    assert scheduler.free_pages == 32 - 8
    ((number, event),) = scheduler.cancel(0)
    assert number == 0
    assert isinstance(event, FinishEvent)
    assert (event.reason, event.usage.completion_tokens) == ("cancelled", 0)
    assert scheduler.free_pages == 32
    assert scheduler.cancel(0) == scheduler.cancel(99) == []
    ((_, event),) = scheduler.cancel(1)  # while it waits
    assert isinstance(event, FinishEvent)
    assert not scheduler.busy


@pytest.mark.parametrize("rows", [1, 5, 512])
def test_prompts_are_scored_with_bounded_logits(rows: int) -> None:
    runner = FakeRunner()
    scheduler = Scheduler(runner, limits=Limits(rows=rows, scored=4, running=1))
    prompt = [int(x) for x in np.random.default_rng(0).integers(0, 60, 21)]
    sampling = SamplingParams(seed=1, max_tokens=3, top_logprobs=2)
    scheduler.add(0, Request(prompt, sampling, prompt_logprobs=True))
    events = run(scheduler)[0]
    check_result(Request(prompt, sampling, prompt_logprobs=True), events)
    assert tokens_of(events) == expected(Request(prompt, sampling), 64)[0]
    assert max(runner.outputs) <= 5  # four scored and the one that is sampled


def test_scores_alone_sample_nothing() -> None:
    for prompt in ([3], [3, 4, 5]):
        runner = FakeRunner()
        scheduler = Scheduler(runner)
        scheduler.add(0, Request(prompt, prompt_logprobs=True, answer=False))
        scores, end = run(scheduler)[0]
        assert isinstance(scores, PromptEvent)
        assert len(scores.logprobs) == len(prompt)
        assert isinstance(end, FinishEvent)
        assert (end.reason, end.usage.completion_tokens) == ("length", 0)
        assert sum(runner.outputs) == len(prompt) - 1


def test_embeddings_are_the_mean_of_states_beside_other_requests() -> None:
    scheduler = Scheduler(FakeRunner(), limits=SMALL)
    asked = request([1, 2, 3])
    scheduler.add(0, asked)
    scheduler.add(1, EmbedRequest(list(range(40))))
    events = run(scheduler)
    check_result(EmbedRequest(list(range(40))), events[1])
    end = end_of(events[1])
    assert end.usage.prompt_tokens == 40
    assert tokens_of(events[0]) == expected(asked, 64)[0]


def test_damaged_weights_fail_their_requests_alone() -> None:
    scheduler = Scheduler(FakeRunner(), limits=SMALL)
    good = request([1, 2])
    scheduler.add(0, request([1, NAN_TOKEN]))
    scheduler.add(1, good)
    scheduler.add(2, Request([NAN_TOKEN, 1, 2], prompt_logprobs=True, answer=False))
    scheduler.add(3, EmbedRequest([NAN_TOKEN]))
    events = run(scheduler)
    for number in (0, 2, 3):
        error = error_of(events[number])
        assert isinstance(error, FormatError)
        assert "NaN" in str(error)
    assert tokens_of(events[1]) == expected(good, 64)[0]
    assert scheduler.free_pages == 32


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (CapacityError("full"), CapacityError),
        (MemoryError(), CapacityError),
        (ValueError("odd"), InternalError),
    ],
)
def test_a_failing_runner_fails_those_who_run_and_no_others(
    raised: Exception, kind: type[AlpageError]
) -> None:
    runner = FakeRunner()
    scheduler = Scheduler(runner, limits=Limits(rows=16, running=2))
    asked = [request([n, 3]) for n in range(3)]
    for number, one in enumerate(asked):
        scheduler.add(number, one)
    scheduler.step()
    runner.fail = raised
    events = run(scheduler)
    errors = [error_of(events[number]) for number in (0, 1)]
    assert [type(error) for error in errors] == [kind, kind]
    assert errors[0] is not errors[1]
    assert errors[0].__cause__ is raised
    assert tokens_of(events[2]) == expected(asked[2], 64)[0]
    assert scheduler.free_pages == 32


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="rows=4"):
        Limits(rows=4, running=5)
    with pytest.raises(UsageError, match="scored=0"):
        Limits(scored=0)
