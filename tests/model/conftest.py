"""Random models with strong attention, so that a wrong mask, head or angle shows in the logits."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from alpage.core.config import LlamaConfig
from alpage.model.llama import Llama

TINY = LlamaConfig(
    vocab_size=97,
    dim=48,
    n_layers=2,
    n_heads=6,
    n_kv_heads=2,
    head_dim=8,
    ffn_dim=173,
    context_length=256,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_model() -> Callable[..., Llama]:
    """`make_model(seed=0, **changes)`: TINY with changes, weights of unit gain, norms not 1."""

    def make(seed: int = 0, **changes: Any) -> Llama:
        torch.manual_seed(seed)
        model = Llama(replace(TINY, **changes)).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))
            else:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        return model

    return make
