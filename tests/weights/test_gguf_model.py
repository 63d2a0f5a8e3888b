"""A Llama model out of GGUF metadata: configuration, ids, and the models that are refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.weights.gguf_files import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    TOKENS,
    U32,
    GgufFile,
    Stored,
    quantised,
    tiny_model,
)

from alpage.core.config import LlamaConfig, RopeScaling
from alpage.core.errors import AlpageError, FormatError, UnsupportedError
from alpage.weights.names import from_canonical, half_from_interleaved
from alpage.weights.source import ModelSource, open_model
from alpage.weights.tensor import TensorType


def opened(model: GgufFile, folder: Path) -> ModelSource:
    return open_model(model.write(folder / "model.gguf"))


def test_the_default_model(smollm2_path: Path) -> None:
    with open_model(smollm2_path) as source:
        config = source.config
        assert config.norm_eps == pytest.approx(1e-5)
        assert config == LlamaConfig(
            vocab_size=49152, dim=576, n_layers=30, n_heads=9, n_kv_heads=3, head_dim=64,
            ffn_dim=1536, context_length=8192, norm_eps=config.norm_eps, rope_theta=100_000.0,
            tied=True,
        )  # fmt: skip
        assert config.parameter_count == 134_515_008
        assert sum(tensor.size for tensor in source.tensors.values()) == 134_515_008
        assert (source.format, source.quantization) == ("gguf", "Q4_1")
        assert source.file_bytes == smollm2_path.stat().st_size == 98_362_432
        assert source.weight_bytes == 96_576_768
        assert source.licence == "apache-2.0"
        assert source.lineage.authors == "HuggingFaceTB"
        assert source.bos_id == 1
        assert source.eos_ids == {0, 2}  # <|endoftext|> and <|im_end|>
        assert source.add_bos is False
        assert source.chat_template is not None
        assert "<|im_start|>" in source.chat_template
        assert source.gguf_metadata is not None
        assert len(source.gguf_metadata["tokenizer.ggml.merges"]) == 48_900
        orders = [n for n, t in source.tensors.items() if t.row_order is not None]
        assert len(orders) == 60


def test_the_default_model_is_what_transformers_makes_of_it(smollm2_path: Path) -> None:
    """Names, weights and the order of query and key rows, against an independent converter."""
    from transformers import LlamaConfig as TheirConfig
    from transformers import LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    load: Any = load_gguf_checkpoint
    values = load(str(smollm2_path), return_tensors=False)["config"]
    with torch.device("meta"):
        empty = LlamaForCausalLM(TheirConfig(**values))
    theirs = load(str(smollm2_path), return_tensors=True, model_to_load=empty)
    tensors = theirs["tensors"]
    with open_model(smollm2_path) as source:
        assert len(source.tensors) == len(tensors) == 272
        for name, tensor in source.tensors.items():
            other = np.asarray(tensors.pop(from_canonical(name, "huggingface")))
            assert np.array_equal(tensor.dequantize(), other), name


@pytest.mark.parametrize("kind", list(TensorType), ids=lambda kind: kind.name)
def test_queries_and_keys_come_in_canonical_row_order(tmp_path: Path, kind: TensorType) -> None:
    model = tiny_model()
    data = quantised(kind, (32, 256), 5)
    stored = Stored("blk.0.attn_q.weight", (256, 32), int(kind), data)
    wide = {"token_embd": (32, 256), "output_norm": (256,)}
    for layer in range(2):
        for name, rows in {"attn_q": 32, "attn_k": 16, "attn_v": 16, "ffn_gate": 64,
                           "ffn_up": 64}.items():  # fmt: skip
            wide[f"blk.{layer}.{name}"] = (rows, 256)
        wide |= {f"blk.{layer}.attn_norm": (256,), f"blk.{layer}.ffn_norm": (256,)}
        wide |= {f"blk.{layer}.attn_output": (256, 32), f"blk.{layer}.ffn_down": (256, 64)}
    model.tensors = [
        Stored(f"{name}.weight", shape[::-1], 0, quantised(TensorType.F32, shape))
        for name, shape in wide.items()
    ]
    model.tensors[model.tensors.index(model.tensor("blk.0.attn_q.weight"))] = stored
    model.set("llama.embedding_length", U32, 256)
    with opened(model, tmp_path) as source:
        query = source.tensors["layers.0.attention.wq.weight"]
        order = half_from_interleaved(4, 8)
        assert query.type is kind
        assert query.row_order is not None
        assert query.row_order.tolist() == order.tolist()
        assert bytes(query.data) == data
        plain = type(query)("plain", query.shape, kind, query.data).dequantize()
        assert np.array_equal(query.dequantize(), plain[order], equal_nan=True)
        value = source.tensors["layers.0.attention.wv.weight"]
        assert value.row_order is None


def test_separate_output_weights_and_other_options(tmp_path: Path) -> None:
    model = tiny_model(tied=False).set("llama.attention.key_length", U32, 8)
    with opened(model, tmp_path) as source:
        assert source.config.tied is False
        assert source.tensors["output.weight"].shape == (32, 32)
    model = tiny_model().drop("llama.rope.dimension_count").drop("llama.rope.freq_base")
    model.drop("tokenizer.ggml.tokens").drop("general.name")
    with opened(model, tmp_path) as source:
        assert source.config.head_dim == 8
        assert source.config.rope_theta == 10_000.0
        assert source.name == "model"


def test_linear_rope_scaling(tmp_path: Path) -> None:
    model = tiny_model().set("llama.rope.scaling.type", STRING, "linear")
    model.set("llama.rope.scaling.factor", F32, 4.0)
    with opened(model, tmp_path) as source:
        assert source.config.rope_scaling == RopeScaling("linear", 4.0)
    with opened(tiny_model().set("llama.rope.scale_linear", F32, 2.0), tmp_path) as source:
        assert source.config.rope_scaling == RopeScaling("linear", 2.0)
    for kind, factor in (("none", 4.0), ("linear", 1.0), ("linear", 0.0)):
        model.set("llama.rope.scaling.type", STRING, kind)
        model.set("llama.rope.scaling.factor", F32, factor)
        with opened(model, tmp_path) as source:
            assert source.config.rope_scaling is None


def test_stored_rope_factors(tmp_path: Path) -> None:
    """The tensor that converters write for Llama 3.1 gives Llama 3.1's frequencies."""
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 64)
    model = tiny_model()
    with opened(model, tmp_path) as source:
        plain = source.config
    fields = {name: getattr(plain, name) for name in LlamaConfig.__slots__}
    wanted = LlamaConfig(**{**fields, "rope_scaling": scaling}).inverse_frequencies()
    factors = np.array(plain.inverse_frequencies()) / np.array(wanted)
    assert len({round(f, 3) for f in factors}) > 2
    stored = Stored("rope_freqs.weight", (4,), 0, factors.astype(np.float32).tobytes())
    model.tensors.append(stored)
    with opened(model, tmp_path) as source:
        assert source.config.rope_scaling is None
        assert source.config.inverse_frequencies() == pytest.approx(wanted)
        assert "rope_freqs.weight" not in source.tensors
    model.set("llama.rope.scaling.factor", F32, 2.0)
    with opened(model, tmp_path) as source:
        half = [frequency / 2 for frequency in wanted]
        assert source.config.inverse_frequencies() == pytest.approx(half)


def _change(key: str, kind: int, value: object) -> Callable[[GgufFile], None]:
    def change(model: GgufFile) -> None:
        model.set(key, kind, value)

    return change


def _drop(name: str) -> Callable[[GgufFile], None]:
    def change(model: GgufFile) -> None:
        model.drop(name)

    return change


def _add(name: str, dims: tuple[int, ...]) -> Callable[[GgufFile], None]:
    def change(model: GgufFile) -> None:
        model.tensors.append(Stored(name, dims, 0, bytes(4 * math.prod(dims))))

    return change


def _reshape(name: str, dims: tuple[int, ...]) -> Callable[[GgufFile], None]:
    def change(model: GgufFile) -> None:
        model.tensor(name).dims = dims

    return change


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (_change("general.architecture", STRING, "qwen2"), UnsupportedError,
         "this is a qwen2 model; Alpage runs llama"),
        (_drop("general.architecture"), FormatError, "lacks general.architecture"),
        (_change("general.architecture", U32, 1), FormatError, "should be text, not 1"),
        (_change("general.architecture", STRING, "a\x1b[2J"), FormatError,
         "a short word, not 'a\\x"),
        (_change("general.type", STRING, "adapter"), UnsupportedError, "holds a adapter"),
        (_change("split.count", U32, 3), FormatError, "a part of a model in 3 files; its name"),
        (_change("llama.expert_count", U32, 8), UnsupportedError, "mixture of 8 experts"),
        (_add("blk.0.attn_q.bias", (32,)), UnsupportedError, "has bias weights (blk.0.attn_q.bias"),
        (_add("blk.0.attn_q_norm.weight", (8,)), UnsupportedError, "blk.0.attn_q_norm.weight"),
        (_add("blk.2.attn_norm.weight", (32,)), FormatError,
         "holds tensor blk.2.attn_norm.weight, which a Llama model of 2 layers"),
        (_drop("blk.1.ffn_up.weight"), FormatError,
         "lacks tensor blk.1.ffn_up.weight of shape [64, 32]"),
        (_drop("output_norm.weight"), FormatError, "lacks tensor output_norm.weight"),
        (_drop("token_embd.weight"), FormatError, "lacks the matrix token_embd.weight"),
        (_reshape("token_embd.weight", (1024,)), FormatError, "lacks the matrix token_embd"),
        (_reshape("blk.1.ffn_down.weight", (32, 64)), FormatError,
         "tensor blk.1.ffn_down.weight should have shape [32, 64], not [64, 32]"),
        (_change("llama.block_count", U32, 0), FormatError, "n_layers must be between 1"),
        (_change("llama.block_count", U32, 1 << 30), FormatError, "lacks tensor blk.2."),
        (_change("llama.block_count", STRING, "two"), FormatError,
         "llama.block_count should be a whole number, not 'two'"),
        (_drop("llama.context_length"), FormatError, "lacks llama.context_length"),
        (_drop("llama.attention.layer_norm_rms_epsilon"), FormatError, "lacks llama.attention.l"),
        (_change("llama.attention.layer_norm_rms_epsilon", F32, math.nan), FormatError,
         "norm_eps must be positive"),
        (_change("llama.rope.freq_base", F32, math.inf), FormatError, "rope_theta must be"),
        (_change("llama.attention.head_count", U32, 0), FormatError, "in 0 heads cannot be"),
        (_change("llama.attention.head_count_kv", U32, 0), FormatError, "n_kv_heads must be"),
        (_change("llama.attention.head_count_kv", U32, 3), FormatError,
         "4 attention heads cannot share 3 key/value heads"),
        (_change("llama.attention.head_count_kv", ARRAY, (U32, [2, 1])), UnsupportedError,
         "llama.attention.head_count_kv differs between layers"),
        (_change("llama.rope.dimension_count", U32, 1 << 31), FormatError, "a head of 2147483648"),
        (_change("llama.attention.key_length", U32, 16), UnsupportedError, "rotates 8 of 16"),
        (_change("llama.attention.value_length", U32, 16), UnsupportedError, "value heads of 16"),
        (_change("llama.rope.scaling.type", STRING, "yarn"), UnsupportedError, "'yarn'"),
        (_add("rope_freqs.weight", (7,)), FormatError, "should have shape [4], not [7]"),
        (_add("rope_freqs.weight", (4,)), FormatError, "every rope factor must be positive"),
        (_change("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "b"])), FormatError,
         "the tokenizer has 2 tokens, but tensor token_embd.weight has 32 rows"),
        (_change("tokenizer.ggml.tokens", U32, 1), FormatError, "should be a list of texts"),
        (_change("tokenizer.ggml.eos_token_id", U32, 32), FormatError, "the vocabulary has 32"),
        (_change("tokenizer.ggml.add_bos_token", U32, 1), FormatError, "should be true or false"),
        (_change("tokenizer.chat_template", U32, 1), FormatError, "should be text"),
    ],
)  # fmt: skip
def test_models_that_are_refused(
    tmp_path: Path, change: Callable[[GgufFile], None], kind: type[AlpageError], message: str
) -> None:
    model = tiny_model()
    change(model)
    path = model.write(tmp_path / "model.gguf")
    with pytest.raises(kind) as caught:
        open_model(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_end_and_begin_ids(tmp_path: Path) -> None:
    model = tiny_model().set("tokenizer.ggml.eot_token_id", U32, 9)
    with opened(model, tmp_path) as source:
        assert source.eos_ids == {2, 9, 3}  # eos, eot, and the control token <|im_end|>
        assert (source.bos_id, source.add_bos) == (1, False)
    # The same text as an ordinary token ends nothing.
    model.set("tokenizer.ggml.token_type", ARRAY, (I32, [1] * 32))
    with opened(model, tmp_path) as source:
        assert source.eos_ids == {2, 9}
    for value in (0xFFFFFFFF, None):
        model.set("tokenizer.ggml.bos_token_id", U32, value or 0)
        if value is None:
            model.drop("tokenizer.ggml.bos_token_id")
        with opened(model.set("tokenizer.ggml.add_bos_token", BOOL, 1), tmp_path) as source:
            assert (source.bos_id, source.add_bos) == (None, False)


@pytest.mark.parametrize(
    ("kind", "pre", "adds"),
    [("llama", "default", True), ("gpt2", "llama-bpe", True), ("gpt2", "smollm", False)],
)
def test_begin_of_text_by_kind_of_tokenizer(
    tmp_path: Path, kind: str, pre: str, adds: bool
) -> None:
    model = tiny_model().set("tokenizer.ggml.model", STRING, kind)
    model.set("tokenizer.ggml.pre", STRING, pre)
    with opened(model, tmp_path) as source:
        assert source.add_bos is adds
    with opened(model.set("tokenizer.ggml.add_bos_token", BOOL, not adds), tmp_path) as source:
        assert source.add_bos is not adds


def test_lineage_and_labels(tmp_path: Path) -> None:
    model = tiny_model(kind=TensorType.Q8_0).set("general.license", STRING, "mit")
    model.set("general.author", STRING, "the \x1bauthors").set("general.base_model.count", U32, 1)
    model.set("general.base_model.0.name", STRING, "Base")
    model.set("general.base_model.0.organization", STRING, "Maker")
    model.set("general.datasets", ARRAY, (STRING, ["texts", "more texts"]))
    with opened(model, tmp_path) as source:
        assert source.quantization == "Q8_0"
        assert source.licence == "mit"
        assert source.lineage.authors == "the authors"
        assert source.lineage.base_models == ("Maker/Base",)
        assert source.lineage.datasets == ("texts", "more texts")
    with opened(model.set("general.base_model.count", U32, 1 << 31), tmp_path) as source:
        assert source.lineage.base_models == ("Maker/Base",)


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    tiny_model().write(tmp_path / "one.gguf")
    with open_model(tmp_path) as source:
        assert source.path == tmp_path / "one.gguf"
    tiny_model().write(tmp_path / "two.gguf")
    with pytest.raises(FormatError, match=r"several models; name one of them: one.gguf, two.gguf"):
        open_model(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FormatError, match=r"neither a config.json, a params.json nor"):
        open_model(empty)


def test_files_that_can_run_code_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"PK\3\4")
    with pytest.raises(UnsupportedError, match="give the folder that holds it"):
        open_model(path)


def test_helpers_agree() -> None:
    assert len(TOKENS) == 32
