"""PEFT itself as the judge of adapters, merged into the weights and beside them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.convert.models import judge
from tests.parity.models import deviation, gguf_file, logits_of, pieces

from alpage.engine.native import NativeRunner, available_isas
from alpage.engine.protocol import Runner
from alpage.engine.torch import TorchRunner
from alpage.weights.lora import LoraAdapter, LoraMatrix
from alpage.weights.names import interleaved_from_half, rotary_heads
from alpage.weights.peft import read_adapter
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

peft = pytest.importorskip("peft")

NATIVE = 0.02
"""Allowed deviation of the native engine from PEFT. Random weights as large as the judge's magnify
roundings: keys and values in bfloat16 alone, without adapter, make 0.006, adapters in it 0.007."""
ROUNDED = 5e-3
"""The same beside the reference with both roundings: what integers for weights and activations make
(2.4e-3 is measured)."""
TOKENS = np.random.default_rng(4).integers(0, 96, 40).tolist()
OPTIONS: dict[str, dict[str, Any]] = {
    "all linear": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
    "some, rsLoRA": {"r": 7, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "down_proj"],
                     "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 9, "target_modules": ["q_proj", "k_proj", "up_proj"],
                 "rank_pattern": {"k_proj": 6, "layers.1.self_attn.q_proj": 3},
                 "alpha_pattern": {"up_proj": 2, "layers.0.self_attn.k_proj": 20}},
    "one layer": {"r": 8, "target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [1]},
}  # fmt: skip


def tuned(folder: Path, options: dict[str, Any], factor: float | None = 8.0) -> Any:
    """A random model of transformers, saved at folder/base, with an adapter, at folder/tuned."""
    base = judge(factor=factor)
    base.save_pretrained(folder / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(**options))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zeros at first, which would hide every mistake
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "tuned")
    return model.eval()


def judged(model: Any) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.tensor([TOKENS])).logits[0].float().numpy()
    return logits


def rounded(adapter: LoraAdapter) -> LoraAdapter:
    """As the native engine keeps it: bfloat16, the scale in B."""

    def half(values: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = torch.from_numpy(values).bfloat16().float().numpy()
        return result

    matrices = {
        name: LoraMatrix(half(m.a), half(m.b * np.float32(m.scale)), 1.0)
        for name, m in adapter.matrices.items()
    }
    return LoraAdapter(adapter.name, matrices)


def adapted(runner: Runner, adapter: LoraAdapter) -> NDArray[np.float32]:
    runner.set_adapter(3, adapter)
    found = []
    for batch in pieces(TOKENS, 16):
        slots = np.array([3], np.int32)
        found.append(runner.forward(replace(batch, adapters=slots)).copy())
    return np.concatenate(found)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_logits_are_those_of_peft(tmp_path: Path, options: dict[str, Any]) -> None:
    model = tuned(tmp_path, options)
    beside = judged(model)
    merged = judged(model.merge_and_unload())
    assert deviation(merged, beside) < 1e-5
    with open_model(tmp_path / "base") as source:
        reference = TorchRunner.load(source, page_count=3)
        assert deviation(logits_of(reference, TOKENS, 16), beside) > 0.02
        adapter = read_adapter(tmp_path / "tuned", source.config)
        exact = adapted(reference, adapter)
        twin = TorchRunner.load(source, page_count=3, kv_dtype="bfloat16")
        same = adapted(twin, rounded(adapter))
        assert deviation(exact, beside) < 1e-5
        assert deviation(exact, merged) < 1e-5
        for isa in available_isas():
            runner = NativeRunner(source, threads=2, context_tokens=48, isa=isa)
            found = adapted(runner, adapter)
            runner.close()
            print(f"{isa}: {deviation(found, beside):.1e} of PEFT's logits")
            assert deviation(found, same) < ROUNDED
            assert deviation(found, beside) < NATIVE
            assert deviation(found, merged) < NATIVE


def test_files_whose_query_rows_are_interleaved(tmp_path: Path) -> None:
    """The same weights as GGUF, whose reader puts the rows of query and key into another order."""
    model = tuned(tmp_path, OPTIONS["all linear"], factor=None)
    beside = judged(model)
    with open_model(tmp_path / "base") as plain:
        config = plain.config
        weights = {name: tensor.dequantize() for name, tensor in plain.tensors.items()}
    for name, values in weights.items():
        if heads := rotary_heads(name, config):
            weights[name] = values[interleaved_from_half(heads, config.head_dim)]
    path = gguf_file(tmp_path / "m.gguf", config, weights, [TensorType.F32])
    with open_model(path) as source:
        assert source.tensors["layers.0.attention.wq.weight"].row_order is not None
        for runner in (
            TorchRunner.load(source, page_count=3),
            NativeRunner(source, threads=1, context_tokens=48),
        ):
            adapter = read_adapter(tmp_path / "tuned", source.config)
            assert deviation(adapted(runner, adapter), beside) < NATIVE
            runner.close()
