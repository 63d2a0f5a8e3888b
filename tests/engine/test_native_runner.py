"""The native runner: what it says of itself, what it refuses, and the same answers in company."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from tests.parity.models import CONFIG, deviation, gguf_file, logits_of, pieces, random_weights

from alpage.core.errors import CapacityError, FormatError, InternalError, UsageError
from alpage.core.types import KvType, SamplingParams
from alpage.engine.engine import Engine
from alpage.engine.load import load_engine
from alpage.engine.native import (
    NativeRunner,
    available_isas,
    product_rate,
    read_rate,
    sample_row,
)
from alpage.engine.protocol import Request, TokenEvent
from alpage.engine.scheduler import Limits
from alpage.weights.contents import ModelSource
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

TOKENS = np.random.default_rng(2).integers(0, CONFIG.vocab_size, 60).tolist()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSource]:
    path = tmp_path_factory.mktemp("native") / "model.gguf"
    kinds = [TensorType.Q4_K, TensorType.Q8_0, TensorType.BF16, TensorType.Q6_K]
    with open_model(gguf_file(path, CONFIG, random_weights(CONFIG), kinds)) as opened:
        yield opened


def test_what_it_says_of_itself(source: ModelSource) -> None:
    runner = NativeRunner(source, threads=3, context_tokens=100)
    assert (runner.page_size, runner.page_count, runner.threads) == (16, 7, 3)
    assert runner.isa == available_isas()[-1]
    assert runner.config == source.config
    stored = sum(t.data.size for t in source.tensors.values() if len(t.shape) == 2)
    assert stored <= runner.weight_bytes < stored * 1.2
    assert runner.cache_bytes == 7 * 16 * CONFIG.kv_bytes_per_token()


@pytest.mark.parametrize("kv", ["bf16", "int8"])
def test_threads_and_pieces_change_no_bit(source: ModelSource, kv: KvType) -> None:
    def make(threads: int, isa: str) -> NativeRunner:
        return NativeRunner(source, threads=threads, context_tokens=64, isa=isa, kv=kv)

    for isa in available_isas():
        whole = logits_of(make(1, isa), TOKENS)
        for threads, size in ((2, 60), (3, 7), (1, 1)):
            assert np.array_equal(logits_of(make(threads, isa), TOKENS, size), whole)


def test_an_int8_cache_takes_half_the_bytes_and_moves_logits_little(source: ModelSource) -> None:
    for isa in available_isas():
        bf16 = NativeRunner(source, threads=1, context_tokens=64, isa=isa)
        int8 = NativeRunner(source, threads=1, context_tokens=64, isa=isa, kv="int8")
        assert int8.cache_bytes / bf16.cache_bytes == (1 + 4 / CONFIG.head_dim) / 2
        assert 1e-5 < deviation(logits_of(int8, TOKENS), logits_of(bf16, TOKENS)) < 0.02
    with pytest.raises(UsageError, match="'bf16' or 'int8', not 'fp8'"):
        NativeRunner(source, context_tokens=64, kv="fp8")  # type: ignore[arg-type]


def test_times_of_stages_add_up_to_the_pass(source: ModelSource) -> None:
    runner = NativeRunner(source, threads=2, context_tokens=64)
    assert runner.stage_seconds() == {}
    logits_of(runner, TOKENS)
    runner.time_stages()
    start = perf_counter()
    logits_of(runner, TOKENS)
    passed = perf_counter() - start
    stages = runner.stage_seconds()
    assert {"qkv", "attention", "gate and up", "head"} < set(stages)
    assert all(seconds > 0 for seconds in stages.values())
    assert sum(stages.values()) < passed
    runner.time_stages()
    assert not any(runner.stage_seconds().values())
    runner.close()


@pytest.mark.parametrize("isa", available_isas())
def test_rates_of_this_machine(isa: str) -> None:
    assert read_rate(2, 1 << 20) > 1e6
    for kind in TensorType:
        assert product_rate(kind, 7, 2, isa) > 1e5
    with pytest.raises(ValueError, match="rows"):
        product_rate(TensorType.Q4_0, 0, 1, isa)
    with pytest.raises(ValueError, match="too few bytes"):
        read_rate(1, 8)


def test_states_after_the_final_norm(source: ModelSource) -> None:
    runner = NativeRunner(source, threads=1, context_tokens=64)
    (batch,) = pieces(TOKENS, 64)
    states = runner.hidden(batch)
    assert states.shape == (60, CONFIG.dim)
    norm = source.tensors["norm.weight"].dequantize()
    np.testing.assert_allclose(((states / norm) ** 2).mean(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("isa", available_isas())
def test_a_seed_gives_the_same_tokens_in_any_company(source: ModelSource, isa: str) -> None:
    """Through the engine's thread, alone and among others that come and go."""

    def ask(engine: Engine, seed: int) -> list[int]:
        prompt = TOKENS[seed : seed + 1 + seed * 3 % 19]
        sampling = SamplingParams(seed=seed, max_tokens=12, temperature=0.9, top_p=0.95)
        events = engine.submit(Request(prompt, sampling))
        return [event.token for event in events if isinstance(event, TokenEvent)]

    def engine_of(threads: int, limits: Limits) -> Engine:
        runner = NativeRunner(source, threads=threads, context_tokens=320, isa=isa)
        return Engine(runner, limits=limits, sampler=sample_row)

    engine = engine_of(1, Limits())
    alone = [ask(engine, seed) for seed in range(12)]
    engine.close()
    assert len({tuple(tokens) for tokens in alone}) == 12
    engine = engine_of(2, Limits(rows=11, running=5))
    found: dict[int, list[int]] = {}
    callers = [
        threading.Thread(target=lambda seed=seed: found.update({seed: ask(engine, seed)}))
        for seed in range(12)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    engine.close()
    assert [found[seed] for seed in range(12)] == alone


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("layers.1.feed_forward.w2.weight", TensorType.F32),
        ("layers.2.attention.wq.weight", TensorType.F16),
        ("tok_embeddings.weight", TensorType.BF16),
        ("layers.0.attention.wv.weight", TensorType.Q4_1),
        ("layers.0.ffn_norm.weight", TensorType.Q8_0),
    ],
)
def test_damaged_weights_are_named(tmp_path: Path, name: str, kind: TensorType, bad: float) -> None:
    weights = random_weights(CONFIG)
    weights[name].reshape(-1)[-1] = bad
    with np.errstate(invalid="ignore", over="ignore"):
        path = gguf_file(tmp_path / "damaged.gguf", CONFIG, weights, [kind])
    with (
        open_model(path) as source,
        pytest.raises(FormatError, match=rf"damaged\.gguf: tensor {name} holds NaN or infinite"),
    ):
        load_engine(source, threads=1, context=64)


def test_what_it_refuses(source: ModelSource) -> None:
    foreign = "avx2" if "neon" in available_isas() else "neon"
    with pytest.raises(UsageError, match=rf"does not run {foreign}; it runs scalar"):
        NativeRunner(source, context_tokens=64, isa=foreign)
    with pytest.raises(CapacityError, match=r"not enough memory for model\.gguf with room for"):
        NativeRunner(source, context_tokens=1 << 34)
    runner = NativeRunner(source, context_tokens=64, threads=1)
    (batch,) = pieces(TOKENS, 64)
    before = runner.forward(batch).copy()
    ids = np.array
    cases: list[tuple[dict[str, Any], str]] = [
        ({"page_tables": ids([[9, 9, 9, 9]], np.int32)}, "page 9"),
        ({"positions": batch.positions + 5}, "position"),
        ({"tokens": batch.tokens + CONFIG.vocab_size}, "token"),
        ({"outputs": ids([60], np.int32)}, "output row 60"),
    ]
    for changes, message in cases:
        with pytest.raises(InternalError, match=f"impossible batch: {message}"):
            runner.forward(replace(batch, **changes))
    assert np.array_equal(runner.forward(batch), before)
    runner.close()
