"""Adapters in PEFT's layout: what is read, with which scale, and everything that is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.weights.peft_files import PREFIX, lora_weights, write_adapter

from alpage.core.config import LlamaConfig
from alpage.core.errors import AlpageError, FormatError, NotFoundError, UnsupportedError
from alpage.weights.peft import read_adapter

CONFIG = LlamaConfig(
    vocab_size=50, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, ffn_dim=44,
    context_length=64,
)  # fmt: skip
Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj"


def read(folder: Path, **changes: Any) -> Any:
    weights = changes.pop("weights", None) or lora_weights(CONFIG)
    return read_adapter(write_adapter(folder / "tuned", weights, changes), CONFIG)


def test_every_matrix_under_its_canonical_name(tmp_path: Path) -> None:
    weights = lora_weights(CONFIG, only="")
    adapter = read(tmp_path, weights=weights)
    assert adapter.name == "tuned"
    assert adapter.size == sum(values.size for values in weights.values())
    assert len(adapter.matrices) == 14
    places = {
        "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }  # fmt: skip
    for ours, theirs in places.items():
        matrix = adapter.matrices[f"layers.1.{ours}.weight"]
        module = f"{PREFIX}model.layers.1.{theirs}"
        np.testing.assert_array_equal(matrix.a, weights[f"{module}.lora_A.weight"])
        np.testing.assert_array_equal(matrix.b, weights[f"{module}.lora_B.weight"])
        assert (matrix.rank, matrix.scale) == (4, 2.0)


def test_half_precision_is_read_exactly(tmp_path: Path) -> None:
    halves = {name: values.astype(np.float16) for name, values in lora_weights(CONFIG).items()}
    matrix = read(tmp_path, weights=halves).matrices["layers.0.attention.wq.weight"]
    assert matrix.a.dtype == np.float32
    np.testing.assert_array_equal(matrix.a, halves[f"{Q0}.lora_A.weight"].astype(np.float32))


def test_scale_by_rank_alpha_and_module(tmp_path: Path) -> None:
    weights = lora_weights(CONFIG) | lora_weights(CONFIG, rank=6, only="layers.1.mlp.down_proj")
    adapter = read(
        tmp_path, weights=weights, lora_alpha=3, use_rslora=True,
        rank_pattern={"mlp.down_proj": 6, "proj": 5},
        alpha_pattern={"^model.layers.1.self_attn.q_proj": 5.5, "layers.1.self_attn.q_proj": 1},
    )  # fmt: skip
    scales = {name: matrix.scale for name, matrix in adapter.matrices.items()}
    assert scales == {
        "layers.0.attention.wq.weight": 3 / 2,
        "layers.1.attention.wq.weight": 5.5 / 2,
        "layers.1.feed_forward.w2.weight": 3 / math.sqrt(6),
    }


def test_what_changes_nothing_is_ignored(tmp_path: Path) -> None:
    adapter = read(
        tmp_path, base_model_name_or_path="someone/base", task_type="CAUSAL_LM",
        init_lora_weights="gaussian", peft_version="9.9", layer_replication=None,
        layers_to_transform=[0, 1], an_option_of_tomorrow=False, another={},
    )  # fmt: skip
    assert len(adapter.matrices) == 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"peft_type": "IA3"}, UnsupportedError, "this is a IA3 adapter; Alpage runs LORA"),
        ({"peft_type": None}, FormatError, "lacks peft_type"),
        ({"use_dora": True}, UnsupportedError, "'use_dora' is set"),
        ({"bias": "all"}, UnsupportedError, "bias is all"),
        ({"lora_bias": True}, UnsupportedError, "'lora_bias' is set"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedError, "'modules_to_save' is set"),
        ({"fan_in_fan_out": True}, UnsupportedError, "'fan_in_fan_out' is set"),
        ({"layer_replication": [[0, 2]]}, UnsupportedError, "'layer_replication' is set"),
        ({"trainable_token_indices": [1]}, UnsupportedError, "'trainable_token_indices' is set"),
        ({"target_parameters": ["experts"]}, UnsupportedError, "'target_parameters' is set"),
        ({"alora_invocation_tokens": [5]}, UnsupportedError, "'alora_invocation_tokens' is set"),
        ({"use_qalora": True}, UnsupportedError, "'use_qalora' is set"),
        ({"an_option_of_tomorrow": 1}, UnsupportedError, "'an_option_of_tomorrow' is set"),
        ({"init_lora_weights": "pissa"}, UnsupportedError, "'pissa', which changes the base"),
        ({"init_lora_weights": 1}, UnsupportedError, "init_lora_weights is 1"),
        ({"r": "4"}, FormatError, "r should be a number, not '4'"),
        ({"r": None}, FormatError, "lacks r"),
        ({"r": 8}, FormatError, r"q_proj has rank 4; adapter_config\.json says 8"),
        ({"rank_pattern": {"q_proj": 2}}, FormatError, "has rank 4; .* says 2"),
        ({"rank_pattern": [4]}, FormatError, "rank_pattern should be an object"),
        ({"lora_alpha": math.inf}, FormatError, "lora_alpha should be a finite number, not inf"),
        ({"lora_alpha": 1e300}, FormatError, "lora_alpha should be a finite number"),
        ({"alpha_pattern": {"q_proj": math.nan}}, FormatError, "q_proj should be a finite number"),
        ({"alpha_pattern": {"(a+)+$": 1}}, UnsupportedError, r"the pattern '\(a\+\)\+\$'"),
        ({"use_rslora": 1}, FormatError, "use_rslora should be true or false"),
    ],
)
def test_configurations_that_are_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[AlpageError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, **changes)


def weights_with(name: str, values: Any) -> dict[str, Any]:
    """The good weights with one more, one replaced, or (None) one missing."""
    weights = {**lora_weights(CONFIG), name: values}
    return {name: values for name, values in weights.items() if values is not None}


ONES = np.ones((4, 32), np.float32)


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        (f"{Q0}.lora_A.weight", None, FormatError, "q_proj has lora_B but not its other half"),
        (f"{Q0}.lora_B.weight", None, FormatError, "q_proj has lora_A but not its other half"),
        (f"{Q0}.lora_A.weight", ONES[:, :31], FormatError, r"\[4, 31\].*needs \[rank, 32\]"),
        (f"{Q0}.lora_A.weight", ONES[:3], FormatError, r"\[3, 32\] and \[24, 4\]"),
        (f"{Q0}.lora_A.weight", ONES[0], FormatError, r"\[32\] and"),
        (f"{Q0}.lora_B.weight", ONES.T, FormatError, r"\[32, 4\]; this model needs.*\[24, rank\]"),
        (f"{Q0}.lora_A.weight", ONES * np.nan, FormatError, "lora_A.weight holds NaN"),
        (f"{Q0}.lora_A.weight", ONES.astype(np.int32), UnsupportedError, "type I32"),
        (f"{Q0}.lora_magnitude_vector", ONES[0], UnsupportedError, "DoRA"),
        (f"{Q0}.lora_B.bias", ONES[0], UnsupportedError, "lora_B.bias"),
        (f"{Q0}.lora_A.default.weight", ONES, UnsupportedError, "lora_A.default.weight"),
        ("model.layers.0.mlp.up_proj.lora_A.weight", ONES, UnsupportedError, "base_model.model"),
        (f"{PREFIX}lm_head.lora_A.weight", ONES, UnsupportedError, "changes lm_head"),
        (f"{PREFIX}model.embed_tokens.lora_embedding_A", ONES, UnsupportedError, "embedding_A"),
        (f"{PREFIX}model.norm.lora_A.weight", ONES, UnsupportedError, "changes model.norm"),
        (f"{PREFIX}model.layers.0.input_layernorm.lora_A.weight", ONES, UnsupportedError, "norm;"),
        (f"{PREFIX}model.layers.0.mlp.experts.lora_A.weight", ONES, UnsupportedError, "experts"),
        (f"{PREFIX}model.layers.2.mlp.up_proj.lora_A.weight", ONES, FormatError, "of 2 layers"),
    ],
)
def test_weights_that_are_refused(
    tmp_path: Path, name: str, values: Any, error: type[AlpageError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, weights=weights_with(name, values))


def test_infinity_in_half_precision(tmp_path: Path) -> None:
    values = np.full((24, 4), np.inf, np.float16)
    with pytest.raises(FormatError, match=r"lora_B\.weight holds NaN or infinite"):
        read(tmp_path, weights=weights_with(f"{Q0}.lora_B.weight", values))


def test_folders_that_are_no_adapters(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"holds no adapter: it has no adapter_config\.json"):
        read_adapter(tmp_path, CONFIG)
    folder = write_adapter(tmp_path / "a", None, {})
    with pytest.raises(NotFoundError, match=r"lacks adapter_model\.safetensors"):
        read_adapter(folder, CONFIG)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsupportedError, match=r"can run code.*safe_serialization=True"):
        read_adapter(folder, CONFIG)
    write_adapter(folder, {"__other": ONES}, {})
    with pytest.raises(UnsupportedError, match="holds __other"):
        read_adapter(folder, CONFIG)


def test_damaged_files(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, lora_weights(CONFIG), {})
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    for size in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            read_adapter(folder, CONFIG)
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(FormatError, match="holds no LoRA weights"):
        read_adapter(folder, CONFIG)
    path.write_bytes(whole)
    good = (folder / "adapter_config.json").read_text()
    for text in ("", "[]", "{", good[:-9], "[" * 100_000, '{"r": 4, "r": 5}'):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(FormatError):
            read_adapter(folder, CONFIG)
    many = {f"m{n}": 4 for n in range(10_001)}
    (folder / "adapter_config.json").write_text(
        json.dumps({**json.loads(good), "rank_pattern": many})
    )
    with pytest.raises(FormatError, match="10,001 entries"):
        read_adapter(folder, CONFIG)
