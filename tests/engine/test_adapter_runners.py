"""Adapters per request: no bit of an answer depends on company, chunks, threads or other slots."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.fakes import FakeRunner, expected_logits
from tests.parity.models import CONFIG, deviation, gguf_file, random_weights
from tests.weights.peft_files import random_adapter

from alpage.core.errors import FormatError, InternalError
from alpage.engine.native import NativeRunner, available_isas
from alpage.engine.protocol import Runner, StepBatch
from alpage.engine.torch import TorchRunner
from alpage.weights.contents import ModelSource
from alpage.weights.lora import LoraAdapter, LoraMatrix
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

Logits = NDArray[np.float32]
RNG = np.random.default_rng(5)
TEXTS = [RNG.integers(0, CONFIG.vocab_size, n).astype(np.int32) for n in (9, 17, 5, 12, 17, 3)]
SLOTS = [4, -1, 0, 4, 0, 4]
ADAPTERS = {0: random_adapter(CONFIG, 1, rank=5), 4: random_adapter(CONFIG, 2, rank=16)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSource]:
    path = tmp_path_factory.mktemp("adapted") / "model.gguf"
    kinds = [TensorType.Q8_0, TensorType.Q4_K, TensorType.BF16]
    with open_model(gguf_file(path, CONFIG, random_weights(CONFIG), kinds)) as opened:
        yield opened


def native(source: ModelSource, threads: int = 1, isa: str | None = None) -> NativeRunner:
    runner = NativeRunner(source, threads=threads, context_tokens=16 * 16, isa=isa)
    for slot, adapter in ADAPTERS.items():
        runner.set_adapter(slot, adapter)
    return runner


def feed(
    runner: Runner, texts: Sequence[NDArray[np.int32]], slots: Sequence[int] | None, chunk: int = 64
) -> list[Logits]:
    """All logits of each text, all texts together, `chunk` tokens of each in a step."""
    found: list[list[Logits]] = [[] for _ in texts]
    for start in range(0, max(map(len, texts)), chunk):
        going = [i for i, text in enumerate(texts) if len(text) > start]
        parts = [texts[i][start : start + chunk] for i in going]
        rows = np.repeat(np.arange(len(going)), [len(part) for part in parts]).astype(np.int32)
        places = np.concatenate([np.arange(len(part)) + start for part in parts])
        tables = np.array([[2 * i, 2 * i + 1] for i in going], np.int32)
        chosen = None if slots is None else np.array([slots[i] for i in going], np.int32)
        everything = np.arange(len(rows), dtype=np.int32)
        logits = runner.forward(
            StepBatch(
                np.concatenate(parts), places.astype(np.int32), rows, tables, everything, chosen
            )
        )
        for number, i in enumerate(going):
            found[i].append(logits[rows == number].copy())
    return [np.concatenate(pieces) for pieces in found]


@pytest.mark.parametrize("isa", available_isas())
def test_company_chunks_and_threads_change_no_bit(source: ModelSource, isa: str) -> None:
    runner = native(source, isa=isa)
    alone = [feed(runner, [t], [s])[0] for t, s in zip(TEXTS, SLOTS, strict=True)]
    for threads, chunk in ((1, 64), (2, 64), (3, 4), (2, 1)):
        for text, exact in zip(
            feed(native(source, threads, isa), TEXTS, SLOTS, chunk), alone, strict=True
        ):
            assert np.array_equal(text, exact)
    plain = feed(runner, TEXTS, None)
    for slot, without, with_adapter in zip(SLOTS, plain, alone, strict=True):
        assert np.array_equal(without, with_adapter) == (slot == -1)


def test_equals_the_reference(source: ModelSource) -> None:
    reference = TorchRunner.load(source, page_count=16)
    for slot, adapter in ADAPTERS.items():
        reference.set_adapter(slot, adapter)
    exact = feed(reference, TEXTS, SLOTS)
    for isa in available_isas():
        found = feed(native(source, 2, isa), TEXTS, SLOTS)
        assert deviation(np.concatenate(found), np.concatenate(exact)) < 5e-3
    without = np.concatenate(feed(reference, TEXTS, None))
    assert deviation(without, np.concatenate(exact)) > 0.1


@pytest.mark.parametrize("part", ["wq", "wk", "wv", "wo", "w1", "w2", "w3"])
def test_each_matrix_alone_equals_the_reference(source: ModelSource, part: str) -> None:
    adapter = random_adapter(CONFIG, 3, rank=3, strength=1, only=f"layers.1.attention.{part}")
    if not adapter.matrices:
        adapter = random_adapter(CONFIG, 3, rank=3, strength=1, only=f"1.feed_forward.{part}")
    runners: list[Runner] = [native(source), TorchRunner.load(source, page_count=16)]
    for runner in runners:
        runner.set_adapter(1, adapter)
    found, exact = (np.concatenate(feed(runner, TEXTS, [1] * 6)) for runner in runners)
    assert deviation(found, exact) < 5e-3
    assert deviation(np.concatenate(feed(runners[1], TEXTS, None)), exact) > 0.02


def test_slots_are_filled_replaced_and_freed_between_steps(source: ModelSource) -> None:
    runner = native(source)
    size = runner.adapter_bytes
    weights = sum(adapter.size for adapter in ADAPTERS.values())
    assert 2 * weights <= size < 4 * weights  # panels of 16 rows hold rank 5, too
    before = feed(runner, TEXTS, SLOTS)
    runner.set_adapter(9, random_adapter(CONFIG, 8, rank=2))
    assert runner.adapter_bytes > size
    runner.free_adapter(9)
    assert runner.adapter_bytes == size
    runner.set_adapter(4, ADAPTERS[0])
    swapped = feed(runner, TEXTS, SLOTS)
    assert np.array_equal(swapped[0], feed(runner, TEXTS[:1], [0])[0])
    assert not np.array_equal(swapped[0], before[0]) and np.array_equal(swapped[4], before[4])
    runner.set_adapter(4, ADAPTERS[4])
    for found, exact in zip(feed(runner, TEXTS, SLOTS), before, strict=True):
        assert np.array_equal(found, exact)


def runners_of(source: ModelSource) -> list[Runner]:
    return [native(source), TorchRunner.load(source, page_count=16)]


def test_what_runners_refuse(source: ModelSource) -> None:
    good = random_adapter(CONFIG, 1)
    other = random_adapter(replace(CONFIG, dim=128), 1)
    deeper = random_adapter(replace(CONFIG, n_layers=4), 1)
    for runner in runners_of(source):
        runner.set_adapter(0, ADAPTERS[0])
        before = feed(runner, TEXTS, [0] * 6)
        for strange in (other, deeper):
            with pytest.raises(FormatError, match=r"random-1 does not fit this model"):
                runner.set_adapter(0, strange)
        for slots in ([0, 7, 0, 0, 0, 0], [-2] * 6):
            with pytest.raises(InternalError, match="no adapter in slot"):
                feed(runner, TEXTS, slots)
        with pytest.raises(InternalError, match="no adapter in slot 7"):
            runner.free_adapter(7)
        runner.set_adapter(7, good)
        runner.free_adapter(7)
        with pytest.raises(InternalError, match="no adapter in slot 7"):
            feed(runner, TEXTS, [7] * 6)
        batch = StepBatch(TEXTS[5], np.arange(3, dtype=np.int32), np.zeros(3, np.int32),
                          np.zeros((1, 1), np.int32), np.zeros(1, np.int32),
                          np.zeros(2, np.int32))  # fmt: skip
        with pytest.raises(InternalError, match="adapters"):
            runner.forward(batch)
        for found, exact in zip(feed(runner, TEXTS, [0] * 6), before, strict=True):
            assert np.array_equal(found, exact)


def test_weights_beyond_bfloat16(source: ModelSource) -> None:
    runner = native(source)
    largest = np.float32(3.3e38)
    huge = {
        name: LoraMatrix(matrix.a, np.sign(matrix.b) * largest, 2.0)
        for name, matrix in ADAPTERS[0].matrices.items()
    }
    before = feed(runner, TEXTS, SLOTS)
    with pytest.raises(FormatError, match="too large for bfloat16"):
        runner.set_adapter(0, LoraAdapter("huge", huge))
    assert np.array_equal(feed(runner, TEXTS, SLOTS)[2], before[2])


def test_the_fake_answers_by_adapter() -> None:
    runner = FakeRunner(pages=12, page_size=16, context=64)
    runner.set_adapter(2, LoraAdapter("one", {}))
    runner.set_adapter(0, LoraAdapter("other", {}))
    texts = [text % 60 for text in TEXTS]
    found = feed(runner, texts, [2, -1, 0, 2, -1, -1], 7)
    for text, logits, name in zip(texts, found, ("one", "", "other", "one", "", ""), strict=True):
        np.testing.assert_array_equal(logits[-1], expected_logits(text.tolist(), name))
    assert not np.array_equal(found[0][0], expected_logits(texts[0][:1].tolist()))


def test_default_model_equals_the_reference(smollm2_path: Path) -> None:
    texts = [np.arange(300 + i, 312 + i, dtype=np.int32) for i in range(3)]
    with open_model(smollm2_path) as source:
        adapters = [random_adapter(source.config, i, rank=16, strength=0.3) for i in range(2)]
        native_runner = NativeRunner(source, threads=2, context_tokens=128)
        runners = (native_runner, TorchRunner.load(source, page_count=8))
        for runner in runners:
            for slot, adapter in enumerate(adapters):
                runner.set_adapter(slot, adapter)
        found, exact = (np.concatenate(feed(runner, texts, [1, -1, 0])) for runner in runners)
        plain = np.concatenate(feed(runners[1], texts, None))
        for runner in runners:
            runner.close()
    print(f"{deviation(found, exact):.1e}; without adapters {deviation(plain, exact):.2f}")
    assert deviation(found, exact) < 5e-3
    assert deviation(plain, exact) > 0.05
