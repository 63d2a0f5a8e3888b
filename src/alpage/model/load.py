"""From stored weights to the reference model: every tensor dequantised, one at a time."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from alpage.core.config import LlamaConfig
from alpage.core.errors import CapacityError, FormatError, ResourceError, UsageError
from alpage.model.llama import Llama
from alpage.weights.source import ModelSource
from alpage.weights.tensor import Tensor

DTypeName = Literal["float32", "bfloat16"]
"""The number formats that the reference model runs in."""


def load(source: ModelSource, *, dtype: DTypeName = "float32", device: str = "cpu") -> Llama:
    """Build the reference model of `source`, which may be closed afterwards. See `build`."""
    return build(source.config, source.tensors, dtype=dtype, device=device)


def build(
    config: LlamaConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: DTypeName = "float32",
    device: str = "cpu",
) -> Llama:
    """A model of `config` with the canonical `tensors`, for inference (no gradients).

    Besides the model itself, memory holds one float32 tensor at a time. Raises `FormatError` for a
    weight that is missing, unknown, of another shape, or holds infinity or NaN; `UsageError` for
    an unknown dtype or device; `ResourceError` for a device that this machine does not have.
    """
    number_type, place = parse_dtype(dtype), parse_device(device)
    _check_layers(config, tensors)
    with torch.device("meta"):
        model = Llama(config)  # shapes only: no memory, no random numbers
    wanted = dict(model.named_parameters())
    _check_names(wanted.keys() - tensors.keys(), "lacks")
    _check_names(tensors.keys() - wanted.keys(), "should not hold")
    for name, parameter in wanted.items():
        weight = _dequantize(name, tensors[name], tuple(parameter.shape))
        module, _, leaf = name.rpartition(".")
        try:
            weight = weight.to(place, number_type)
        except torch.OutOfMemoryError as error:
            raise CapacityError(
                f"the model needs {config.parameter_count * number_type.itemsize / 1e9:.1f} GB in "
                f"{dtype}, more than is free on {device}"
            ) from error
        setattr(model.get_submodule(module), leaf, nn.Parameter(weight, requires_grad=False))
    return model.eval()


def parse_dtype(name: str) -> torch.dtype:
    """The torch type of a `DTypeName`; `UsageError` for any other name."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise UsageError(f"dtype must be one of {', '.join(known)}, not {name!r}")
    return known[name]


def parse_device(name: str) -> torch.device:
    """The torch device "cpu", "cuda" or "cuda:N", tried once."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device must be cpu, cuda or cuda:N, not {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device must be cpu, cuda or cuda:N, not {name!r}")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise ResourceError(f"this machine has no device {name!r} that torch can use") from error
    return device


def _check_layers(config: LlamaConfig, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a config of far more layers than there are weights, before building it."""
    if config.n_layers > len(tensors):
        raise FormatError(
            f"the model should have {config.n_layers} layers, but there are {len(tensors)} tensors"
        )


def _check_names(names: set[str], complaint: str) -> None:
    if names:
        shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
        raise FormatError(f"the model {complaint} {len(names)} weights: {shown}")


def _dequantize(name: str, tensor: Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """One weight as finite float32 [shape]."""
    if tensor.shape != shape:
        raise FormatError(f"{name} should have shape {list(shape)}, not {list(tensor.shape)}")
    weight = torch.from_numpy(tensor.dequantize())  # [shape]
    if not torch.isfinite(weight).all():
        raise FormatError(f"{name} holds infinity or NaN; the file is damaged or badly converted")
    return weight
