"""The native sampler against the plain one in `engine/sampling.py`, on random cases."""

import math
import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alpage import _native
from alpage.core.errors import InternalError
from alpage.core.types import SamplingParams
from alpage.engine import sampling
from alpage.engine.native import sample_row
from alpage.engine.sampling import Sampler, SamplingState, sample_reference

Arguments = tuple[Any, ...]
NAMES = (
    "logits", "history", "prompt_length", "temperature", "top_k", "top_p", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "bias_ids", "bias_values",
    "seed", "step", "top_logprobs", "allowed",
)  # fmt: skip
CLOSE = 1e-6
"""Probabilities nearer than this to a boundary may fall on either side of it: the native sampler
computes them in single precision."""


def random_case(chance: random.Random, noise: np.random.Generator) -> Arguments:
    vocab = chance.choice([2, 3, 17, 300, 1000] + [49152] * (chance.random() < 0.05))
    logits = (noise.standard_normal(vocab) * chance.choice([0.1, 1, 5, 20])).astype(np.float32)
    if chance.random() < 0.2:
        logits = np.round(logits)  # many equal ones
    if chance.random() < 0.1:
        logits[noise.integers(0, vocab, vocab // 3)] = -np.inf  # tokens that cannot be
    length = chance.randint(1, 50)
    biased = chance.randint(0, min(5, vocab))
    scale = chance.choice([1, 50, 1e9])
    return (
        logits, noise.integers(0, vocab, length).astype(np.int32), chance.randint(0, length),
        chance.choice([0.0, 0.1, 0.5, 1.0, 2.0]), chance.choice([0, 1, 5, 40, 100_000]),
        chance.choice([1.0, 0.9, 0.5, 0.0]), chance.choice([0.0, 0.05, 0.5, 1.0]),
        chance.choice([1.0, 1.3, 0.7]), chance.choice([0.0, 0.5, -1.0]), chance.choice([0.0, 0.2]),
        noise.choice(vocab, biased, replace=False).astype(np.int32),
        (noise.standard_normal(biased) * scale).astype(np.float32),
        chance.getrandbits(64), chance.randint(0, 1000), chance.choice([-1, 0, 3, 20]),
        random_mask(chance, noise, vocab),
    )  # fmt: skip


def random_mask(
    chance: random.Random, noise: np.random.Generator, vocab: int
) -> NDArray[np.uint32] | None:
    """No mask, or one that allows nothing, one id, a few or most; bits past the end are set."""
    if chance.random() < 0.5:
        return None
    bits = noise.random(vocab) < chance.choice([0, 0.05, 0.5, 0.99])
    bits[chance.randrange(vocab)] |= chance.random() < 0.8
    return packed(bits)


def packed(bits: NDArray[np.bool_]) -> NDArray[np.uint32]:
    words = np.ones(-(-len(bits) // 32) * 32, np.bool_)
    words[: len(bits)] = bits
    return np.packbits(words, bitorder="little").view(np.uint32)


def acceptable(arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The tokens that the reference chooses when draw and cuts move by `CLOSE`."""
    case = dict(zip(NAMES, arguments, strict=True))
    point = sampling.uniform(case["seed"], case["step"])
    found = set()
    for draw in (-CLOSE, CLOSE):
        for top_p in (-CLOSE, CLOSE):
            for min_p in (-CLOSE, CLOSE):
                moved = case | {
                    "top_p": min(1.0, case["top_p"] + top_p) if 0 < case["top_p"] < 1 else
                    case["top_p"],
                    "min_p": max(0.0, case["min_p"] + min_p) if case["min_p"] else 0.0,
                }  # fmt: skip
                with monkeypatch.context() as patch:
                    place = min(max(point + draw, 0.0), 1 - 1e-12)
                    patch.setattr(sampling, "uniform", lambda *_, place=place: place)
                    found.add(sample_reference(**moved)[0])
    return found


@pytest.mark.parametrize("seed", range(40))
def test_the_native_sampler_is_the_reference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, noise = random.Random(seed), np.random.default_rng(seed)
    moved = 0
    for _ in range(100):
        arguments = random_case(chance, noise)
        if not np.isfinite(arguments[0].max()):
            continue
        wanted, got = sample_reference(*arguments), sample_row(*arguments)
        assert sample_row(*arguments) == got  # nothing but the arguments counts
        mask = arguments[-1]
        if mask is not None and got[0] != -2:
            assert mask[got[0] // 32] >> np.uint32(got[0] % 32) & 1, "a token that is not allowed"
        if got[0] != wanted[0]:
            moved += 1
            assert got[0] in acceptable(arguments, monkeypatch), arguments[2:]
            continue
        assert got[2] == wanted[2]
        assert (got[1] is None) == (wanted[1] is None)
        if wanted[1] is not None:
            assert got[1] == pytest.approx(wanted[1], abs=1e-6)
        assert got[3] == pytest.approx(wanted[3], abs=1e-6)
    assert moved <= 1


def draws(logits: NDArray[np.float32], count: int = 3000, **params: Any) -> NDArray[np.float64]:
    state = SamplingState(SamplingParams(**params), [0], sample_row)
    counts = np.zeros(len(logits))
    for _ in range(count):
        token, _, _ = state.sample(logits)
        counts[token] += 1 / count
        state.append(token)
    return counts


def test_many_steps_follow_the_softmax_of_a_large_vocabulary() -> None:
    logits = (np.random.default_rng(5).standard_normal(49152) * 4).astype(np.float32)
    found = draws(logits, seed=7, temperature=0.6)
    exact = np.exp((logits - logits.max()) / np.float64(0.6))
    exact /= exact.sum()
    likely = np.argsort(-exact)[:5]
    assert found[likely] == pytest.approx(exact[likely], abs=0.03)
    assert np.abs(found - exact).sum() < 0.7


def test_forced_tokens_keep_their_own_probabilities() -> None:
    logits = np.array([1, math.log(3), 0, 9], np.float32)
    bias = {1: math.inf, 2: math.inf}
    assert draws(logits, seed=1, logit_bias=bias) == pytest.approx([0, 0.75, 0.25, 0], abs=0.03)
    assert draws(logits, 50, seed=1, logit_bias=bias, temperature=0)[1] == pytest.approx(1)
    assert draws(logits, seed=1, logit_bias={3: -math.inf})[3] == 0


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-39, 1e-20, 1e-3])
def test_the_coldest_draws_take_the_largest(temperature: float) -> None:
    logits = np.array([1, 5, 4.9, -np.inf], np.float32)
    assert draws(logits, 50, seed=1, temperature=temperature)[1] == pytest.approx(1)


def plain(logits: NDArray[Any], **changes: Any) -> Any:
    arguments: dict[str, Any] = dict(zip(NAMES, (
        logits, np.zeros(1, np.int32), 1, 1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0,
        np.empty(0, np.int32), np.empty(0, np.float32), 1, 2, 3, None,
    ), strict=True))  # fmt: skip
    return _native.sample(**(arguments | changes))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("place", [0, 15, 16, 99])
def test_damaged_logits_give_no_token(place: int, temperature: float) -> None:
    logits = np.linspace(-1, 1, 100, dtype=np.float32)
    for bad in (np.nan, np.inf):
        damaged = logits.copy()
        damaged[place] = bad
        assert plain(damaged, temperature=temperature) == (-1, None, [])
        reference = sample_reference(
            damaged, np.zeros(1, np.int32), 1, temperature, 0, 1.0, 0.0, 1.0, 0.0, 0.0,
            np.empty(0, np.int32), np.empty(0, np.float32), 1, 2, 3,
        )  # fmt: skip
        assert reference == (-1, None, [], [])
    nothing = np.full(100, -np.inf, np.float32)
    assert plain(nothing, temperature=temperature)[0] == -1
    nothing[place] = 0
    assert plain(nothing, temperature=temperature)[:2] == (place, 0.0)
    assert plain(logits[:0], temperature=temperature)[0] == -1


def test_arguments_of_a_wrong_kind() -> None:
    logits = np.zeros(8, np.float32)
    for wrong in (
        {"logits": logits[None]},
        {"logits": [0.0, 1.0]},
        {"history": [1, 2]},
        {"history": np.zeros((1, 1), np.int32)},
        {"top_k": 1.5},
        {"seed": -1},
        {"seed": 1 << 64},
        {"temperature": "hot"},
        {"bias_ids": None},
    ):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            plain(**({"logits": logits} | wrong))
    with pytest.raises(ValueError, match="bias ids and values differ"):
        plain(logits, bias_ids=np.zeros(2, np.int32))
    ids, values = np.array([-5, 8, 3], np.int32), np.array([9, 9, 9], np.float32)
    assert plain(logits, temperature=0.0, bias_ids=ids, bias_values=values)[0] == 3
    rising = np.arange(8) / 3  # float64: converted, not misread
    assert plain(rising, history=np.zeros(1, np.int64)) == plain(rising.astype(np.float32))
    assert plain(rising[::-2], temperature=0.0)[0] == 0
    stranger = np.array([-1, 8, 1 << 30], np.int32)
    assert 0 <= plain(logits, history=stranger, presence_penalty=1.0, prompt_length=-9)[0] < 8


@pytest.mark.parametrize("choose", [sample_row, sample_reference])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_tokens_are_chosen_and_logprobs_stay_those_of_the_model(
    temperature: float, choose: Sampler
) -> None:
    logits = np.linspace(5, -5, 70, dtype=np.float32)
    logits[68] = -np.inf
    rest = (1.0, 0.0, 1.0, 0.0, 0.0, np.empty(0, np.int32), np.empty(0, np.float32), 1, 2, 3)
    history = np.zeros(1, np.int32)

    def asked(*ids: int) -> tuple[int, float | None, list[int], list[float]]:
        bits = np.zeros(70, np.bool_)
        bits[list(ids)] = True
        return choose(logits, history, 1, temperature, 0, *rest, packed(bits))

    free = choose(logits, history, 1, 0.0, 0, *rest)
    token, logprob, top, _ = asked(69)
    assert (token, top) == (69, free[2])
    assert logprob == pytest.approx(free[3][0] + float(logits[69] - logits[0]), abs=1e-5)
    assert asked(68, 40)[0] == 40
    # Nothing, or nothing but what cannot be; the bits past the last id do not count.
    assert asked()[0] == asked(68)[0] == -2
    with pytest.raises(InternalError, match="allows no token"):
        state = SamplingState(SamplingParams(temperature=temperature), [0], choose)
        state.sample(logits, packed(np.zeros(70, np.bool_)))


def test_a_mask_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="one bit a logit"):
        plain(np.zeros(65, np.float32), allowed=np.zeros(2, np.uint32))
