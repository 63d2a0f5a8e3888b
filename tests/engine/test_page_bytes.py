"""Pages of the cache as bytes: they give the same bits wherever they are written."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.engine.fakes import FakeRunner
from tests.parity.models import CONFIG, gguf_file, random_weights

from alpage.core.errors import InternalError
from alpage.core.types import KvType
from alpage.engine.native import NativeRunner, available_isas
from alpage.engine.protocol import Runner, StepBatch
from alpage.engine.torch import TorchRunner
from alpage.model.load import DTypeName
from alpage.weights.contents import ModelSource
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

Make = Callable[[], Runner]
PAGES = 5
TOKENS = np.random.default_rng(5).integers(0, 60, 41).astype(np.int32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSource]:
    path = tmp_path_factory.mktemp("pages") / "model.gguf"
    kinds = [TensorType.Q4_K, TensorType.Q8_0, TensorType.BF16]
    with open_model(gguf_file(path, CONFIG, random_weights(CONFIG), kinds)) as opened:
        yield opened


REAL = ["bf16", "int8", "torch", "torch-bfloat16"]


@pytest.fixture(params=[*REAL, "fake"])
def make(request: pytest.FixtureRequest, source: ModelSource) -> Make:
    def torch_runner() -> Runner:
        kind: DTypeName = "bfloat16" if request.param == "torch-bfloat16" else "float32"
        return TorchRunner.load(source, page_count=PAGES, kv_dtype=kind)

    if request.param == "fake":
        return lambda: FakeRunner(pages=PAGES, page_size=16)
    if request.param in ("bf16", "int8"):
        return lambda: NativeRunner(source, threads=2, context_tokens=PAGES * 16, kv=request.param)
    return torch_runner


def native(source: ModelSource, isa: str | None = None, threads: int = 1) -> NativeRunner:
    return NativeRunner(source, threads=threads, context_tokens=32, isa=isa)


def run(runner: Runner, first: int, pages: list[int]) -> bytes:
    """Logits of the tokens from `first` on, in these pages, as bytes."""
    part = TOKENS[first:]
    rows = np.arange(len(part), dtype=np.int32)
    table = np.array([pages], np.int32)
    return runner.forward(
        StepBatch(part, rows + np.int32(first), rows * 0, table, rows[-9:])
    ).tobytes()


def test_pages_written_elsewhere_give_the_same_bits(make: Make) -> None:
    one, two = make(), make()
    assert one.cache_fingerprint == two.cache_fingerprint
    run(one, 0, [4, 0, 2])
    wanted = run(one, 32, [4, 0, 3])
    run(two, 0, [0, 1, 2])  # pages that held something else
    kept = [one.read_page(page) for page in (4, 0)]
    run(one, 0, [0, 4, 1])  # what was read is a copy
    for page, data in zip((2, 1), kept, strict=True):
        two.write_page(page, data)
        assert two.read_page(page) == data
    assert run(two, 32, [2, 1, 0]) == wanted
    assert run(two, 32, [1, 2, 0]) != wanted
    one.close()
    two.close()


@pytest.mark.parametrize("make", REAL, indirect=True)
def test_what_is_no_page_is_refused_and_changes_nothing(make: Make) -> None:
    runner = make()
    run(runner, 0, [0, 1, 2])
    pages = [runner.read_page(page) for page in range(PAGES)]
    assert len({len(page) for page in pages}) == 1
    for page in (-1, PAGES, 1 << 40):
        with pytest.raises(InternalError, match=f"page {page} of {PAGES}"):
            runner.read_page(page)
        with pytest.raises(InternalError, match=f"page {page} of {PAGES}"):
            runner.write_page(page, pages[0])
    for data in (b"", pages[0][:-1], pages[0] + b"\0"):
        with pytest.raises(InternalError, match=f"has {len(pages[0])} bytes, not {len(data)}"):
            runner.write_page(0, data)
    assert [runner.read_page(page) for page in range(PAGES)] == pages
    runner.close()


def test_all_pages_are_the_whole_cache(source: ModelSource) -> None:
    numbers = 2 * CONFIG.n_layers * CONFIG.n_kv_heads * 16
    sizes: dict[KvType, int] = {"bf16": 2 * CONFIG.head_dim, "int8": CONFIG.head_dim + 4}
    for kv, each in sizes.items():
        runner = NativeRunner(source, threads=1, context_tokens=PAGES * 16, kv=kv)
        assert len(runner.read_page(0)) * PAGES == runner.cache_bytes == PAGES * numbers * each
        runner.close()


def test_fingerprints_tell_apart_what_is_not_exchangeable(
    source: ModelSource, tmp_path: Path
) -> None:
    own = native(source).cache_fingerprint
    assert native(source, threads=3).cache_fingerprint == own
    kinds = [TensorType.Q4_K, TensorType.Q8_0, TensorType.BF16]
    with open_model(gguf_file(tmp_path / "a.gguf", CONFIG, random_weights(CONFIG), kinds)) as same:
        assert native(same).cache_fingerprint == own
    weights = random_weights(CONFIG)
    weights["layers.2.attention.wv.weight"][-1, -1] += 0.5
    with open_model(gguf_file(tmp_path / "b.gguf", CONFIG, weights, kinds)) as other:
        others = [native(other).cache_fingerprint, torch_print(other)]
    turned = replace(source, config=replace(source.config, rope_theta=10_001.0))
    others += [native(turned).cache_fingerprint, torch_print(turned), torch_print(source)]
    others += [native(source, isa).cache_fingerprint for isa in available_isas()[:-1]]
    int8 = NativeRunner(source, threads=1, context_tokens=32, kv="int8")
    others += [int8.cache_fingerprint, torch_print(source, "bfloat16")]
    assert len({own, *others}) == 1 + len(others)
    assert torch_print(source) == torch_print(source)
    for text in (own, *others):
        assert not set(text) & set('/\\:*?"<>| '), text
        assert len(text) < 120


def torch_print(source: ModelSource, kind: DTypeName = "float32") -> str:
    return TorchRunner.load(source, page_count=1, kv_dtype=kind).cache_fingerprint
