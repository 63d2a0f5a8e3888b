"""The reference sampler against its documented meaning."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpage.core.errors import FormatError
from alpage.core.types import SamplingParams
from alpage.engine.sampling import (
    SamplingState,
    sample_reference,
    score_rows,
    uniform,
)


def sample(logits: Sequence[float], history: Sequence[int] = (0,), **changes: Any) -> Any:
    """sample_reference with neutral parameters; `history` is prompt unless said otherwise."""
    bias = changes.pop("bias", {})
    arguments: dict[str, Any] = {
        "prompt_length": len(history), "temperature": 1.0, "top_k": 0, "top_p": 1.0,
        "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "seed": 0, "step": 0, "top_logprobs": -1,
    }  # fmt: skip
    return sample_reference(
        np.array(logits, np.float32),
        np.array(history, np.int32),
        bias_ids=np.array(list(bias), np.int32),
        bias_values=np.array(list(bias.values()), np.float32),
        **(arguments | changes),
    )


def drawn(logits: Sequence[float], **changes: Any) -> list[float]:
    """Share of each token in 4000 draws."""
    counts = np.zeros(len(logits))
    for step in range(4000):
        counts[sample(logits, step=step, **changes)[0]] += 1
    return [float(count) / 4000 for count in counts]


def test_draws_are_splitmix64() -> None:
    # First outputs of the published generator from state 1234567 (Vigna, splitmix64.c).
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [uniform(1234567, step) for step in range(3)] == [
        (value >> 11) / 2**53 for value in published
    ]
    assert uniform((1 << 64) - 1, 5) == uniform((1 << 64) - 1, 5) < 1


def test_draws_follow_the_softmax() -> None:
    logits = [0.0, math.log(2), math.log(5)]
    assert drawn(logits, seed=3) == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)
    assert drawn(logits, seed=4, temperature=0.5) == pytest.approx(
        [1 / 30, 4 / 30, 25 / 30], abs=0.03
    )


def test_a_second_draw_gives_what_is_allowed_its_share() -> None:
    """A free draw that is refused, then one among the allowed: their probabilities, scaled to 1."""
    logits = np.linspace(2, -1, 12).astype(np.float32)
    allowed = [1, 4, 5, 9]
    mask = np.array([sum(1 << token for token in allowed)], np.uint32)
    counts = np.zeros(12)
    draws = 20_000
    for seed in range(draws):
        state = SamplingState(SamplingParams(temperature=1, seed=seed), [0], sample_reference)
        token, _, _ = state.sample(logits)
        if token not in allowed:
            token, _, _ = state.sample(logits, mask)
        counts[token] += 1
    weights = np.exp(logits[allowed].astype(np.float64))
    expected = draws * weights / weights.sum()
    assert counts[allowed].sum() == draws
    # Chi-square with 3 degrees of freedom passes 16.3 once in a thousand times; seeds are fixed.
    assert ((counts[allowed] - expected) ** 2 / expected).sum() < 16.3


def test_temperature_zero_takes_the_largest_and_the_lowest_id_of_equals() -> None:
    assert sample([1, 3, 3, 2], temperature=0)[0] == 1


def test_top_k_then_top_p_then_min_p() -> None:
    logits = np.log([0.5, 0.3, 0.15, 0.05]).tolist()
    assert drawn(logits, top_k=2)[2:] == [0, 0]
    # Among the two that top-k leaves, token 0 alone has 0.625 of the probability.
    assert drawn(logits, top_k=2, top_p=0.6)[0] == 1
    assert drawn(logits, top_p=0.6)[2:] == [0, 0]
    assert min(drawn(logits, top_p=0.6)[:2]) > 0
    assert drawn(logits, min_p=0.35)[2:] == [0, 0]
    assert min(drawn(logits, min_p=0.25)[:3]) > 0
    assert drawn(logits, top_p=0.0)[0] == 1
    assert drawn([1, 1, 1, 1], top_k=2, temperature=5)[2:] == [0, 0]  # equals: lowest ids stay


def test_penalties_see_what_they_should() -> None:
    greedy: dict[str, Any] = {"temperature": 0}
    # Repetition: prompt and answer; positive logits shrink, negative ones sink.
    assert sample([2, 3, 1], [1], repetition_penalty=2, **greedy)[0] == 0
    assert sample([-3, -2], [1], repetition_penalty=2, **greedy)[0] == 0
    # Presence and frequency: the answer only, which begins after two tokens here.
    history = [1, 1, 0, 0]
    assert sample([3, 2.5], history, presence_penalty=1, prompt_length=4, **greedy)[0] == 0
    assert sample([3, 2.5], history, presence_penalty=1, prompt_length=2, **greedy)[0] == 1
    assert sample([3, 2.5], history, frequency_penalty=0.2, prompt_length=2, **greedy)[0] == 0
    assert sample([3, 2.5], history, frequency_penalty=0.3, prompt_length=2, **greedy)[0] == 1


def test_bias_comes_first_and_infinite_bias_bans_or_forces() -> None:
    params = SamplingParams(temperature=0.7, logit_bias={0: -math.inf, 2: math.inf}, seed=1)
    state = SamplingState(params, [0], sample_reference)
    assert {state.sample(np.array([9, 8, 1], np.float32))[0] for _ in range(5)} == {2}
    banned = SamplingParams(logit_bias={0: -math.inf}, seed=1)
    state = SamplingState(banned, [0], sample_reference)
    for _ in range(50):
        token, _, _ = state.sample(np.array([9, 1, 1], np.float32))
        assert token != 0
        state.append(token)
    assert sample([1, 1.5], [1], bias={1: 1.0}, repetition_penalty=3, temperature=0)[0] == 0


def test_logprobs_come_from_the_unmodified_logits() -> None:
    logits = [0.0, 1.0, 2.0, 2.0]
    norm = math.log(sum(math.exp(x) for x in logits))
    token, logprob, ids, values = sample(logits, bias={0: 50.0}, temperature=0, top_logprobs=3)
    assert (token, ids) == (0, [2, 3, 1])
    assert [logprob, *values] == pytest.approx([-norm, 2 - norm, 2 - norm, 1 - norm], abs=1e-12)
    assert sample(logits, top_logprobs=0)[1:] != (None, [], [])
    assert sample(logits)[1:] == (None, [], [])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error_not_a_token(bad: float) -> None:
    assert sample([1, bad, 2])[0] == -1
    assert sample([-math.inf, -math.inf])[0] == -1
    assert sample([-math.inf, 1], repetition_penalty=2)[0] == 1  # impossible, but not damaged
    state = SamplingState(SamplingParams(temperature=0), [0], sample_reference)
    with pytest.raises(FormatError, match="weights are damaged"):
        state.sample(np.array([1, bad, 2], np.float32))


def test_a_seed_is_drawn_once_and_kept() -> None:
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    state = SamplingState(SamplingParams(), [0], sample_reference)
    assert len({state.sample(logits)[0] for _ in range(10)}) == 1  # the step did not move
    others = [SamplingState(SamplingParams(), [0], sample_reference) for _ in range(20)]
    assert len({other.sample(logits)[0] for other in others}) > 1


def test_the_history_grows_past_its_first_room() -> None:
    state = SamplingState(SamplingParams(presence_penalty=5, temperature=0), [0], sample_reference)
    logits = np.linspace(1, 0, 300).astype(np.float32)
    for step in range(300):  # every token once: each one taken is penalised afterwards
        token, _, _ = state.sample(logits)
        assert (token, state.answered) == (step, step)
        state.append(token)


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40),
    st.integers(0, 5),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, (1 << 64) - 1),
)
def test_only_kept_tokens_are_drawn(
    logits: list[float], top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    token = sample(logits, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)[0]
    rank = sum(x > np.float32(logits[token]) for x in np.array(logits, np.float32))
    assert top_k == 0 or rank < top_k
    probability = math.exp(logits[token] - max(logits))
    assert probability >= min_p * (1 - 1e-12)


def test_scores_are_log_softmax() -> None:
    logits = (np.random.default_rng(1).standard_normal((40, 500)) * 8).astype(np.float32)
    targets = np.arange(40, dtype=np.int32) * 7
    exact = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    logprobs, top = score_rows(logits, targets, 2)
    assert logprobs == pytest.approx(exact[np.arange(40), targets].tolist(), abs=2e-6)
    for row, found in enumerate(top):
        best = np.argsort(-exact[row])[:2]
        assert [token for token, _ in found] == best.tolist()
        assert [value for _, value in found] == pytest.approx(exact[row, best].tolist(), abs=2e-6)
    assert score_rows(logits, targets, 0)[1] == [()] * 40
    logits[3, 3] = np.nan
    with pytest.raises(FormatError, match="weights are damaged"):
        score_rows(logits, targets, 0)
