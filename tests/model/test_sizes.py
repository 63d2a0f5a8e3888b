"""Published sizes: parameters counted on the meta device, nothing allocated."""

import pytest
import torch

from alpage.model.llama import Llama
from alpage.model.sizes import SIZES

PARAMETERS = {
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
}
KV_KIB_PER_TOKEN = {"llama-3-8b": 128, "llama-3.1-70b": 320, "llama-3.1-405b": 504}


def test_every_size_is_counted() -> None:
    assert SIZES.keys() == PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    with torch.device("meta"):
        model = Llama(SIZES[name])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert SIZES[name].parameter_count == PARAMETERS[name]


@pytest.mark.parametrize("name", KV_KIB_PER_TOKEN)
def test_cache_per_token(name: str) -> None:
    assert SIZES[name].kv_bytes_per_token() == KV_KIB_PER_TOKEN[name] * 1024


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_run_from_end_to_end_on_meta(name: str) -> None:
    with torch.device("meta"):
        logits = Llama(SIZES[name])(torch.zeros(2, 7, dtype=torch.int64))
    assert logits.shape == (2, 7, 128_256)
