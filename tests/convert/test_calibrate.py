"""Importance is what the reference's matrices see, and it helps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.parity.models import CONFIG, gguf_file, random_weights

from alpage.convert.calibrate import importance, text_ids
from alpage.core.errors import InputError
from alpage.engine.native import NativeRunner, available_isas
from alpage.engine.torch import TorchRunner
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

TOKENS = np.random.default_rng(4).integers(0, CONFIG.vocab_size, 700).tolist()


def reference(source: Any, tokens: list[int]) -> dict[str, NDArray[np.float64]]:
    """Mean squared inputs of the reference's matrices, by hooks, over chunks of 512."""
    import torch

    from alpage.engine.protocol import StepBatch

    runner = TorchRunner.load(source, page_count=32)
    sums: dict[str, NDArray[np.float64]] = {}

    def hook(name: str) -> Any:
        def add(_module: Any, inputs: Any, _output: Any) -> None:
            x = inputs[0].double().reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, 0.0) + (x**2).sum(0).numpy()

        return add

    assert runner._model is not None
    for name, module in runner._model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(hook(f"{name}.weight"))
    for start in range(0, len(tokens), 512):
        part = np.array(tokens[start : start + 512], np.int32)
        rows = np.arange(len(part), dtype=np.int32)
        pages = np.arange(32, dtype=np.int32)[None]
        runner.forward(StepBatch(part, rows, rows * 0, pages, rows))
    return {name: total / len(tokens) for name, total in sums.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_importance_is_what_the_reference_sees(tied: bool, tmp_path: Path) -> None:
    from dataclasses import replace

    config = replace(CONFIG, tied=tied)
    kinds = [TensorType.F32, TensorType.Q8_0]
    path = gguf_file(tmp_path / "model.gguf", config, random_weights(config), kinds)
    with open_model(path) as source:
        wanted = reference(source, TOKENS)
        for isa in available_isas():
            found = importance(source, TOKENS, threads=2, isa=isa)
            assert ("output.weight" in found) is not tied
            assert len(found) == 7 * config.n_layers + (not tied)
            for name, values in found.items():
                assert values.shape == (source.tensors[name].columns,)
                np.testing.assert_allclose(values, wanted[name], rtol=0.03, err_msg=name)
                deviation = np.abs(values - wanted[name]).mean() / wanted[name].mean()
                assert deviation < 3e-3, (name, deviation)


def test_observing_changes_no_logits(tmp_path: Path) -> None:
    from tests.parity.models import logits_of

    path = gguf_file(tmp_path / "m.gguf", CONFIG, random_weights(CONFIG), [TensorType.Q4_0])
    with open_model(path) as source:
        runner = NativeRunner(source, threads=2, context_tokens=512)
    before = logits_of(runner, TOKENS[:50])
    assert runner.mean_squares() == {}
    runner.observe()
    assert np.array_equal(logits_of(runner, TOKENS[:50]), before)
    once = runner.mean_squares()
    runner.observe()
    for size in (50, 7, 1):
        logits_of(runner, TOKENS[:50], size)
    for name, values in runner.mean_squares().items():
        np.testing.assert_allclose(values, once[name], rtol=1e-5)


def test_too_little_text(smollm2_path: Path) -> None:
    with open_model(smollm2_path) as source:
        assert len(text_ids(source, "The sun rose over the hills. " * 100, 40)) == 40
        with pytest.raises(InputError, match="the calibration text has 3 tokens; at least 32"):
            text_ids(source, "The sun rose", 1000)
