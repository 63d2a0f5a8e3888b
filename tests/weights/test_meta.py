"""Meta's layout, in one and in several shards, against transformers on the same weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.convert import peers
from tests.weights.meta_files import CONFIG, PARAMS, save_meta
from transformers import LlamaConfig, LlamaForCausalLM

from alpage.core.config import RopeScaling
from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.names import expected_shapes, to_canonical
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

PROMPT = [5, 17, 3, 90, 41, 41, 7, 66, 2, 30]


def judge(tied: bool, factor: float) -> Any:
    torch.manual_seed(7)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96, hidden_size=64, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=4, intermediate_size=224, max_position_embeddings=131072,
            rms_norm_eps=1e-5, tie_word_embeddings=tied, initializer_range=0.2,
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 500000.0, "factor": factor,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        )
    )  # fmt: skip


def canonical(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in model.state_dict().items():
        ours = to_canonical(name, "huggingface")
        assert ours is not None
        if not (model.config.tie_word_embeddings and ours == "output.weight"):
            found[ours] = tensor.to(dtype)
    return found


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("embedding_axis", [0, 1])
def test_logits_are_those_of_transformers(tmp_path: Path, shards: int, embedding_axis: int) -> None:
    model = judge(tied=False, factor=8.0)
    folder = save_meta(tmp_path, canonical(model), shards, embedding_axis=embedding_axis)
    with torch.no_grad():
        wanted = model(torch.tensor([PROMPT])).logits[0].numpy()
    np.testing.assert_allclose(peers.logits(folder, PROMPT), wanted, atol=2e-4, rtol=0)
    with open_model(folder) as source:
        assert source.format == "meta"
        assert source.config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
        assert (source.config.ffn_dim, source.config.context_length) == (224, 131072)
        assert source.quantization == "F32"


@pytest.mark.parametrize("shards", [1, 2])
def test_a_tied_model_is_one_of_the_small_ones(tmp_path: Path, shards: int) -> None:
    model = judge(tied=True, factor=32.0)
    folder = save_meta(tmp_path, canonical(model), shards)
    with open_model(folder) as source:
        assert source.config.tied
        assert source.config.rope_scaling is not None
        assert source.config.rope_scaling.factor == 32
    with torch.no_grad():
        wanted = model(torch.tensor([PROMPT])).logits[0].numpy()
    np.testing.assert_allclose(peers.logits(folder, PROMPT), wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("contiguous", [True, False])
def test_every_weight_is_where_it_belongs(
    tmp_path: Path, dtype: torch.dtype, contiguous: bool
) -> None:
    """Also where a shard is a view into the whole matrix, saved with the matrix."""
    model = judge(tied=False, factor=8.0)
    weights = canonical(model, dtype)
    folder = save_meta(tmp_path, weights, 4, contiguous=contiguous)
    kind = {
        torch.float32: TensorType.F32,
        torch.bfloat16: TensorType.BF16,
        torch.float16: TensorType.F16,
    }[dtype]
    with open_model(folder) as source:
        assert list(source.tensors) == [name for name, _ in expected_shapes(source.config)]
        for name, tensor in source.tensors.items():
            assert tensor.type is kind
            wanted = weights[name].float().numpy()
            assert np.array_equal(tensor.dequantize(), wanted), name
            if wanted.ndim == 2:
                assert np.array_equal(tensor.dequantize_rows(3, 30), wanted[3:30])
            assert tensor.data.size == tensor.nbytes
        assert source.weight_bytes == dtype.itemsize * source.config.parameter_count


def test_llama_2_and_3_are_told_by_their_base_and_scaling(tmp_path: Path) -> None:
    weights = canonical(judge(tied=False, factor=8.0))
    for drop, context, theta in (
        ((), 131072, 500000.0),
        (("use_scaled_rope",), 8192, 500000.0),
        (("use_scaled_rope", "rope_theta", "vocab_size"), 4096, 10000.0),
    ):
        params = {key: value for key, value in PARAMS.items() if key not in drop}
        with open_model(save_meta(tmp_path / str(context), weights, params=params)) as source:
            config = source.config
            assert (config.context_length, config.rope_theta) == (context, theta)
            assert (config.rope_scaling is None) == bool(drop)
            assert config.vocab_size == 96


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision_model": {}}, "sees pictures"),
        ({"quantization_args": {"group_size": 32}}, "quantised for another runtime"),
        ({"moe_args": {}}, "mixture of experts"),
    ],
)
def test_other_kinds_of_model_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = save_meta(tmp_path, canonical(judge(False, 8.0)), params={**PARAMS, **change})
    with pytest.raises(UnsupportedError, match=words):
        open_model(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab_size": 97}, "vocab_size is 97"),
        ({"n_layers": 3}, "lacks tensor layers.2.attention_norm.weight"),
        ({"n_layers": 1 << 30}, "lacks tensor layers.2.attention_norm.weight"),
        ({"n_layers": 1}, "holds tensor layers.1"),
        ({"n_kv_heads": 2}, "should have shape"),
        ({"n_heads": 7}, "do not divide"),
        ({"dim": 128}, "."),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = save_meta(tmp_path, canonical(judge(False, 8.0)), params={**PARAMS, **change})
    with pytest.raises(FormatError, match=words):
        open_model(folder)


def test_shards_must_be_whole_and_alike(tmp_path: Path) -> None:
    weights = canonical(judge(False, 8.0))
    folder = save_meta(tmp_path, weights, 2)
    (folder / "consolidated.00.pth").rename(folder / "kept")
    with pytest.raises(FormatError, match=r"lacks consolidated\.00\.pth"):
        open_model(folder)
    (folder / "kept").rename(folder / "consolidated.00.pth")
    other = {**weights, "norm.weight": weights["norm.weight"] + 1}
    moved = save_meta(tmp_path / "other", other, 2) / "consolidated.01.pth"
    moved.replace(folder / "consolidated.01.pth")
    with pytest.raises(FormatError, match=r"copies of tensor norm\.weight"):
        open_model(folder)
    table = torch.load(folder / "consolidated.00.pth", weights_only=True)
    del table["norm.weight"]
    torch.save(table, folder / "consolidated.01.pth")
    with pytest.raises(FormatError, match="parts of the same tensors"):
        open_model(folder)
    for file in folder.glob("*.pth"):
        file.unlink()
    with pytest.raises(FormatError, match="no consolidated"):
        open_model(folder)


def test_what_params_say_of_the_ffn_is_what_the_shapes_say() -> None:
    width = int(PARAMS["ffn_dim_multiplier"] * int(2 * 4 * 64 / 3))
    assert -(-width // 32) * 32 == CONFIG.ffn_dim
    assert json.loads(json.dumps(PARAMS)) == PARAMS
