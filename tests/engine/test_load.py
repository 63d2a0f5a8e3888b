"""How memory is divided, and what is said when it does not suffice."""

import sys
from pathlib import Path

import pytest

from alpage.core.config import LlamaConfig
from alpage.core.errors import CapacityError, ResourceError, UsageError
from alpage.engine import load, memory
from alpage.engine.load import Room, load_engine, plan_room, planned_bytes
from alpage.engine.memory import available_memory
from alpage.engine.native import NativeRunner
from alpage.weights.source import open_model

CONFIG = LlamaConfig(
    vocab_size=100, dim=64, n_layers=10, n_heads=4, n_kv_heads=2, head_dim=25 * 2, ffn_dim=8,
    context_length=32_768,
)  # fmt: skip
TOKEN = 4000  # bytes of one token's keys and values in 2-byte numbers: 2 * 10 * 2 * 50 * 2
GB = 1_000_000_000


def plan(available: int | None, context: int | None = None, cache: int | None = None) -> Room:
    return plan_room(
        CONFIG, weight_bytes=GB, kv_bytes=2, available=available, context=context,
        cache_tokens=cache,
    )  # fmt: skip


def test_with_room_the_context_is_8192_and_the_cache_four_of_them() -> None:
    assert CONFIG.kv_bytes_per_token(2) == TOKEN
    assert plan(64 * GB) == plan(None) == Room(8192, 4 * 8192)
    assert plan(64 * GB, context=20_000) == Room(20_000, 80_000)
    assert plan(64 * GB, cache=100_000) == Room(8192, 100_000)
    assert plan(64 * GB, context=100, cache=200) == Room(100, 208)  # whole pages


def test_with_less_room_the_cache_shrinks_and_then_the_default_context() -> None:
    for_cache = 10_000 * TOKEN
    assert plan(int((GB + for_cache) / 0.9) + 10) == Room(8192, 10_000)
    for_cache = 1000 * TOKEN
    assert plan(int((GB + for_cache) / 0.9) + 10) == Room(1000, 1008)
    assert plan(int((GB + for_cache) / 0.9) + 10, context=1000).context == 1000


def test_an_int8_cache_has_room_for_nearly_twice_the_tokens(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {}
    with open_model(smollm2_path) as source:
        left = source.weight_bytes + 600 * source.config.kv_bytes_per_token(2)
        monkeypatch.setattr(load, "available_memory", lambda: round(left / 0.9) + 10)
        for kv in ("bf16", "int8"):
            engine = load_engine(source, threads=1, kv=kv)
            runner = engine.runner
            assert isinstance(runner, NativeRunner)
            assert runner.cache_bytes <= 616 * source.config.kv_bytes_per_token(2)
            pages[kv] = runner.page_count
            engine.close()
        with pytest.raises(UsageError, match="the engine 'torch' has no int8 cache"):
            load_engine(source, engine="torch", kv="int8")
        with pytest.raises(UsageError, match="'bf16' or 'int8', not 'int4'"):
            load_engine(source, kv="int4")  # type: ignore[arg-type]
    assert pages == {"bf16": 38, "int8": 71}  # 600 and 600 * 2 / (1 + 4 / 64) tokens


def test_what_was_asked_for_and_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(CapacityError, match=r"1\.0 GB for its weights and 131\.1 MB for a cache"):
        plan_room(
            CONFIG, weight_bytes=GB, kv_bytes=2, available=GB, context=32_768,
        )  # fmt: skip
    with pytest.raises(CapacityError, match=r"cache of 512 tokens, but 1\.0 GB are available"):
        plan(GB)
    with pytest.raises(CapacityError, match="cache of 1000000 tokens"):
        plan(4 * GB, cache=1_000_000)


def test_what_is_planned_is_what_is_taken_at_the_most(smollm2_path: Path) -> None:
    with open_model(smollm2_path) as source, open_model(smollm2_path) as draft:
        weights, token = source.weight_bytes, source.config.kv_bytes_per_token(2)
        assert planned_bytes(source) == weights + 4 * 8192 * token
        assert planned_bytes(source, context=512) == weights + 4 * 512 * token
        assert planned_bytes(source, context=512, cache_tokens=600) == weights + 608 * token
        assert planned_bytes(source, cache_tokens=600, kv="int8") < weights + 608 * token * 0.6
        both = planned_bytes(source, cache_tokens=600, draft=draft)
        assert both == 2 * (weights + 608 * token)
        assert planned_bytes(source, engine="torch", cache_tokens=600) > 3 * weights
        small = weights + 1000 * token
        assert small - 16 * token <= planned_bytes(source, memory=small) <= small
        with pytest.raises(CapacityError, match=r"but .* are available"):
            planned_bytes(source, memory=weights)
        engine = load_engine(source, threads=1, memory=small)
        assert engine.runner.page_count * engine.runner.page_size <= 1016
        engine.close()


@pytest.mark.parametrize(
    ("context", "cache", "message"),
    [
        (0, None, "context must be between 1 and the model's 32768 tokens, not 0"),
        (32_769, None, "not 32769"),
        (100, 99, "cache_tokens must be at least 100, not 99"),
        (None, 0, "cache_tokens must be at least 1, not 0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(
    context: int | None, cache: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan(None, context, cache)


def test_available_memory_is_the_smallest_of_what_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = available_memory()
    assert whole is None or 1 << 20 < whole < 1 << 50
    names = ("limit", "used", "stat")
    for name, text in zip(
        names, ("300000\n", "200000\n", "anon 5\ninactive_file 7000\n"), strict=True
    ):
        (tmp_path / name).write_text(text)
    group = tuple(tmp_path / name for name in names)
    monkeypatch.setattr(memory, "_LIMITS", (group,))
    assert available_memory() == 107_000
    (tmp_path / "limit").write_text("max\n")
    assert available_memory() != 107_000
    (tmp_path / "limit").unlink()
    monkeypatch.setattr(memory, "_machine", lambda: None)
    assert available_memory() is None


def test_engines_that_are_not_there_are_named(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_model(smollm2_path) as source:
        with pytest.raises(UsageError, match="engine is 'native' or 'torch', not 'cuda'"):
            load_engine(source, engine="cuda")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="threads must be between 1 and 1024, not 0"):
            load_engine(source, threads=0)
        monkeypatch.delitem(sys.modules, "alpage.engine.torch", raising=False)
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(ResourceError, match=r"pip install alpage\[train\]"):
            load_engine(source, engine="torch", context=64, cache_tokens=64)
