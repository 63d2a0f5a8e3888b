"""Random models of Llama's sizes: the same each time, and every engine runs them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpage import Llama
from alpage.cli.app import main
from alpage.convert import shapes
from alpage.convert.quantize import quantize
from alpage.convert.shapes import SHAPES, random_model
from alpage.core.config import LlamaConfig
from alpage.core.errors import UsageError
from alpage.weights.source import open_model

TINY = LlamaConfig(
    vocab_size=128_256, dim=256, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512,
    context_length=8192, tied=True,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    return "tiny"


def test_sizes_are_those_of_the_model_cards() -> None:
    found = {name: config.parameter_count for name, config in SHAPES.items()}
    assert found == {"1b": 1_235_814_400, "3b": 3_212_749_824, "8b": 8_030_261_248}


def test_rows_are_made_the_same_in_any_pieces(tiny: str) -> None:
    one, two = random_model(tiny).tensors, random_model(tiny).tensors
    for name, tensor in one.items():
        whole = tensor.dequantize()
        assert np.array_equal(whole, two[name].dequantize())
        if len(tensor.shape) == 2:
            assert np.array_equal(whole[3:5], tensor.dequantize_rows(3, 5))
    matrix = one["layers.0.feed_forward.w1.weight"].dequantize()
    assert len(np.unique(matrix, axis=0)) == len(matrix)
    assert 0.019 < matrix.std() < 0.021 and abs(matrix.mean()) < 0.001
    other = one["layers.1.feed_forward.w1.weight"].dequantize()
    assert not np.array_equal(matrix, other)


def test_the_file_runs_here_and_in_llama_cpp(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--make-shape", "tiny", "--type", "q8_0"]) == 0
    assert capsys.readouterr().out == "alpage bench llama-tiny.Q8_0.gguf\n"
    path = tmp_path / "llama-tiny.Q8_0.gguf"
    with open_model(path) as source:
        found = dataclasses.replace(source.config, norm_eps=TINY.norm_eps)  # a float32 in the file
        assert (found, source.licence) == (TINY, "cc0-1.0")
    with Llama.load(path) as model:
        ids = model.tokenize("Hello there", add_bos=True)
        answer = model.generate("Hello there", max_tokens=3, temperature=0, ignore_eos=True)
    assert answer.usage.completion_tokens == 3
    llama_cpp: Any = pytest.importorskip("llama_cpp")
    judge = llama_cpp.Llama(str(path), verbose=False)
    assert judge.tokenize(b"Hello there") == ids
    assert main(["bench", "--make-shape", "tiny", "--type", "q8_0"]) == 2
    assert "exists" in capsys.readouterr().err


def test_what_cannot_be_made_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="there is no shape '2b'; there are 1b, 3b, 8b"):
        random_model("2b")
    assert main(["bench", "--type", "Q8_0"]) == 2
    assert "--type and --out belong to --make-shape" in capsys.readouterr().err


def test_the_pool_is_all_that_is_held(tiny: str, tmp_path: Path) -> None:
    """The weights are never in memory together: tensors hold a pool of 8 MB between them."""
    source = random_model(tiny)
    pools = {id(t._pool) for t in source.tensors.values() if isinstance(t, shapes.RandomTensor)}
    assert len(pools) == 1
    made = quantize(source, tmp_path / "x.gguf", "Q4_0")
    assert made.file_bytes > made.bytes_after > source.config.parameter_count // 2
