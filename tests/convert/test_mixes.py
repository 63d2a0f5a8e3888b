"""The types of each mix are those that llama.cpp chooses."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.models import quantise_with_llama_cpp
from tests.parity.models import CONFIG, gguf_file, random_weights

from alpage.bench.llamacpp import is_installed
from alpage.convert.mixes import ALIASES, MIXES, type_chooser
from alpage.convert.quantize import mix_name
from alpage.core.config import LlamaConfig
from alpage.core.errors import UsageError
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

NARROW = replace(CONFIG, vocab_size=64, n_heads=4, n_kv_heads=1, head_dim=16, ffn_dim=256)
MODELS: dict[str, tuple[LlamaConfig, list[str]]] = {
    "1B": (replace(NARROW, n_layers=16), list(MIXES)),
    "untied": (replace(NARROW, n_layers=13, tied=False), list(MIXES)),
    "narrow rows": (replace(NARROW, n_layers=10, dim=96), ["Q4_K_M", "Q5_K_M", "Q6_K", "Q4_0"]),
    "no blocks": (replace(NARROW, n_layers=3, dim=80), ["Q4_K_M", "Q8_0", "Q5_1"]),
    "70B": (replace(NARROW, n_layers=80, dim=64, ffn_dim=256, head_dim=64), ["Q4_K_S", "Q4_K_M"]),
}

pytestmark = pytest.mark.skipif(not is_installed(), reason="llama-cpp-python is the judge")


def types(path: Path) -> dict[str, TensorType]:
    with open_model(path) as source:
        return {name: tensor.type for name, tensor in source.tensors.items()}


def chosen(path: Path, mix: str) -> dict[str, TensorType]:
    with open_model(path) as source:
        choose = type_chooser(mix, source.config)
        return {
            name: choose(name, tensor.shape, tensor.type)
            if len(tensor.shape) == 2
            else TensorType.F32
            for name, tensor in source.tensors.items()
        }


@pytest.mark.parametrize("model", MODELS)
def test_small_models_of_every_kind(model: str, tmp_path: Path) -> None:
    config, mixes = MODELS[model]
    source = gguf_file(tmp_path / "source.gguf", config, random_weights(config), [TensorType.F16])
    for mix in mixes:
        target = tmp_path / f"{mix}.gguf"
        quantise_with_llama_cpp(source, target, mix, 1)
        assert chosen(source, mix) == types(target), mix
        with open_model(target) as made:
            assert made.gguf_metadata is not None
            assert made.gguf_metadata["general.file_type"] == MIXES[mix].file_type


@pytest.mark.parametrize("mix", ["Q4_K_M", "Q5_K_M", "Q6_K"])
def test_the_default_model(mix: str, smollm2_path: Path, tmp_path: Path) -> None:
    quantise_with_llama_cpp(smollm2_path, tmp_path / "made.gguf", mix, 2)
    assert chosen(smollm2_path, mix) == types(tmp_path / "made.gguf")


def test_calibrated_first_layers_get_a_minimum() -> None:
    config = replace(NARROW, n_layers=16)
    choose = type_chooser("Q4_0", config, calibrated=True)
    name, shape = "layers.{}.feed_forward.w2.weight", (256, 256)
    kinds = [choose(name.format(i), shape, TensorType.F16).name for i in range(3)]
    assert kinds == ["Q4_1", "Q4_1", "Q4_0"]


def test_names_are_found_in_any_case() -> None:
    assert mix_name("q4-k-m") == mix_name("Q4_K") == "Q4_K_M"
    assert {mix_name(name) for name in ALIASES} <= set(MIXES)
    with pytest.raises(UsageError, match="there is no type 'Q9'; there are F32, F16"):
        mix_name("Q9")
