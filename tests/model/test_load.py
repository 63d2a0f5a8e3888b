"""Stored weights to the reference model, good and bad."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alpage.core.errors import FormatError, ResourceError, UsageError
from alpage.model.llama import Llama
from alpage.model.load import build, load, parse_device
from alpage.weights.source import open_model
from alpage.weights.tensor import Tensor, TensorType

MakeModel = Callable[..., Llama]


def stored(model: Llama) -> dict[str, Tensor]:
    """The weights of `model` as F32 tensors of a file."""
    return {
        name: Tensor(
            name, tuple(weight.shape), TensorType.F32, weight.numpy().reshape(-1).view(np.uint8)
        )
        for name, weight in model.state_dict().items()
    }


@pytest.mark.parametrize("tied", [False, True])
def test_weights_arrive_unchanged(make_model: MakeModel, tied: bool) -> None:
    model = make_model(tied=tied)
    again = build(model.config, stored(model))
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_bfloat16_rounds_once(make_model: MakeModel) -> None:
    model = make_model()
    rounded = build(model.config, stored(model), dtype="bfloat16")
    for name, weight in model.state_dict().items():
        assert torch.equal(rounded.state_dict()[name], weight.bfloat16()), name


def test_default_model_equals_its_own_tensors(smollm2_path: Path) -> None:
    with open_model(smollm2_path) as source:
        model = load(source)
        wq = source.tensors["layers.7.attention.wq.weight"]
        assert wq.row_order is not None
        loaded = model.get_parameter("layers.7.attention.wq.weight")
        np.testing.assert_array_equal(loaded.numpy(), wq.dequantize())
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]]))).all()  # the file is closed by now


def test_missing_unknown_and_misshapen_weights(make_model: MakeModel) -> None:
    model = make_model()
    tensors = stored(model)
    del tensors["layers.1.attention.wv.weight"]
    with pytest.raises(FormatError, match=r"lacks 1 weights: layers\.1\.attention\.wv\.weight"):
        build(model.config, tensors)
    with pytest.raises(FormatError, match=r"should not hold 1 weights: output\.weight"):
        build(replace(model.config, tied=True), stored(model))
    with pytest.raises(FormatError, match=r"should have shape \[172, 48\], not \[173, 48\]"):
        build(replace(model.config, ffn_dim=172), stored(model))


def test_layers_without_end_are_refused_before_they_are_built(make_model: MakeModel) -> None:
    model = make_model()
    with pytest.raises(FormatError, match="1000000000 layers, but there are 21 tensors"):
        build(replace(model.config, n_layers=10**9), stored(model))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(make_model: MakeModel, bad: float) -> None:
    model = make_model()
    model.get_parameter("layers.1.feed_forward.w2.weight")[3, 5] = bad
    with pytest.raises(FormatError, match=r"layers\.1\.feed_forward\.w2\.weight holds infinity"):
        build(model.config, stored(model))


def test_dtypes_and_devices_that_are_not_there(make_model: MakeModel) -> None:
    model = make_model()
    with pytest.raises(UsageError, match="float32, bfloat16, not 'int3'"):
        build(model.config, stored(model), dtype="int3")  # type: ignore[arg-type]
    for name in ("banana", "meta", "cuda:x", ""):
        with pytest.raises(UsageError, match="device must be cpu, cuda or cuda:N"):
            parse_device(name)
    with pytest.raises(ResourceError, match="no device 'cuda:99'"):
        parse_device("cuda:99")
