"""Folders in Hugging Face's layout, written by transformers, and the ones that are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from alpage.core.config import RopeScaling
from alpage.core.errors import AlpageError, FormatError, NotFoundError, UnsupportedError
from alpage.weights.names import from_canonical
from alpage.weights.source import open_model

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip


def save_model(
    folder: Path, *, shard: str = "5GB", dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=56, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, **options,
    )  # fmt: skip
    model: Any = transformers.LlamaForCausalLM(config)
    model.to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "tiny-llama"
    save_model(folder)
    return folder


@pytest.fixture
def folder(plain_folder: Path, tmp_path: Path) -> Path:
    """A copy of an untied one-file model that a test may spoil."""
    return Path(shutil.copytree(plain_folder, tmp_path / "tiny-llama"))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard", ["5GB", "10KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip(tmp_path: Path, tied: bool, shard: str, dtype: torch.dtype) -> None:
    model = save_model(tmp_path, shard=shard, dtype=dtype, tie_word_embeddings=tied)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "10KB")
    with open_model(tmp_path) as source:
        config = source.config
        assert (config.vocab_size, config.dim, config.ffn_dim) == (64, 32, 56)
        assert (config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim) == (2, 4, 2, 8)
        assert (config.context_length, config.norm_eps, config.tied) == (256, 1e-6, tied)
        assert config.rope_theta == 10_000.0
        assert config.rope_scaling is None
        kind = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
        assert (source.format, source.quantization) == ("huggingface", kind)
        assert len(source.files) == len(list(tmp_path.glob("*.safetensors")))
        state = model.state_dict()
        assert len(source.tensors) == len(state) - tied
        for name, tensor in source.tensors.items():
            theirs = state[from_canonical(name, "huggingface")]
            assert tensor.row_order is None
            assert np.array_equal(tensor.dequantize(), theirs.float().numpy())
        assert (source.bos_id, source.eos_ids) == (1, frozenset({2}))
        assert (source.chat_template, source.tokenizer_file) == (None, None)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        ({"rope_type": "default", "rope_theta": 1234.0}, None),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, RopeScaling("linear", 4.0)),
        (LLAMA3, RopeScaling("llama3", 8.0, 1.0, 4.0, 64)),
    ],
)
def test_rope_scaling_as_transformers_understands_it(
    tmp_path: Path, rope: dict[str, Any], scaling: RopeScaling | None, old: bool
) -> None:
    model = save_model(tmp_path, rope_parameters=rope)
    if old:  # transformers 4: rope_theta apart, `type` for `rope_type` before 4.43

        def change(values: dict[str, Any]) -> None:
            section = values.pop("rope_parameters")
            values["rope_theta"] = section.pop("rope_theta")
            kind = section.pop("rope_type")
            section["type" if kind == "linear" else "rope_type"] = kind
            values["rope_scaling"] = None if kind == "default" else section

        edit(tmp_path / "config.json", change)
    with open_model(tmp_path) as source:
        assert source.config.rope_scaling == scaling
        assert source.config.rope_theta == rope["rope_theta"]
        theirs = model.model.rotary_emb.inv_freq.tolist()
        assert source.config.inverse_frequencies() == pytest.approx(theirs, rel=1e-6)


def test_text_files(folder: Path) -> None:
    tokens = [{"id": 3, "content": "<|eot_id|>", "special": True},
              {"id": 4, "content": "<|im_end|>", "special": False},
              {"id": 5, "content": "<|end|>", "special": True}]  # fmt: skip
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}]
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    processor = {"type": "TemplateProcessing", "single": single, "special_tokens": special}
    tokenizer = {"added_tokens": tokens, "post_processor": processor}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings: dict[str, Any] = {"chat_template": "{{ one }}", "eos_token": {"content": "<|end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    edit(folder / "generation_config.json", lambda v: v.update(eos_token_id=[2, 7]))
    with open_model(folder) as source:
        assert source.name == "tiny-llama"
        assert source.eos_ids == {2, 7, 3, 5}
        assert source.add_bos is True
        assert source.chat_template == "{{ one }}"
        assert source.tokenizer_file == folder / "tokenizer.json"
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [processor]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with open_model(folder) as source:
        assert source.add_bos is True
    settings["chat_template"] = [{"name": "tool_use", "template": "t"},
                                 {"name": "default", "template": "d"}]  # fmt: skip
    settings["add_bos_token"] = False
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with open_model(folder) as source:
        assert source.chat_template == "d"
        assert source.add_bos is False
    (folder / "chat_template.jinja").write_text("from its own file: ü")
    with open_model(folder) as source:
        assert source.chat_template == "from its own file: ü"
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with open_model(folder) as source:
        assert source.tokenizer_file == folder / "tokenizer.model"


def test_the_model_card_tells_licence_and_lineage(folder: Path) -> None:
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model:\n- maker/base\ndatasets:\n  - a/b\n  - 'c/d'\n"
        "tags: [x]\n---\n# Text\nlicense: not this\n"
    )
    with open_model(folder) as source:
        assert source.licence == "apache-2.0"
        assert source.lineage.base_models == ("maker/base",)
        assert source.lineage.datasets == ("a/b", "c/d")
    for strange in ("", "---", "no front matter", "---\n: : :\n- \n\x1b[2J"):
        (folder / "README.md").write_text(strange)
        with open_model(folder) as source:
            assert source.licence is None
    (folder / "README.md").write_bytes(b"\xff\xfe")
    open_model(folder).close()


def test_a_stored_copy_of_tied_weights(tmp_path: Path) -> None:
    save_model(tmp_path, tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    with open_model(tmp_path) as source:
        assert source.config.tied is True
        assert "output.weight" not in source.tensors
    # Different weights under a config that says "tied": transformers keeps both, and so do we.
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, file)
    with open_model(tmp_path) as source:
        assert source.config.tied is False
        assert source.tensors["output.weight"].size == 64 * 32


def test_derived_values_of_old_checkpoints_are_left_out(folder: Path) -> None:
    file = folder / "model.safetensors"
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    save_file({**load_file(file), **extra}, file)
    open_model(folder).close()


def _put(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.update(values)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (_put(model_type="qwen2"), UnsupportedError, "this is a qwen2 model; Alpage runs llama"),
        (_put(model_type=None), FormatError, "lacks model_type"),
        (_put(model_type="\x1b[2J"), FormatError, "a short word"),
        (_put(architectures=["LlamaForSequenceClassification"]), UnsupportedError,
         "this is a LlamaForSequenceClassification"),
        (_put(attention_bias=True), UnsupportedError, "attention_bias is true"),
        (_put(mlp_bias=True), UnsupportedError, "mlp_bias is true"),
        (_put(mlp_bias="no"), FormatError, "mlp_bias should be true or false"),
        (_put(hidden_act="gelu"), UnsupportedError, "hidden_act is gelu"),
        (_put(quantization_config={"quant_method": "gptq"}), UnsupportedError, "quantised by gptq"),
        (_put(rope_parameters={"rope_type": "yarn", "factor": 2.0}), UnsupportedError, "'yarn'"),
        (_put(rope_parameters={"rope_type": "dynamic"}), UnsupportedError, "'dynamic'"),
        (_put(rope_parameters={"rope_type": "linear"}), FormatError, "lacks factor"),
        (_put(rope_parameters={"rope_type": "linear", "factor": -1}), FormatError, "positive"),
        (_put(rope_parameters={"partial_rotary_factor": 0.5}), UnsupportedError, "is 0.5"),
        (_put(rope_parameters=[1]), FormatError, "rope_parameters should be an object"),
        (_put(hidden_size=None), FormatError, "lacks hidden_size"),
        (_put(hidden_size=0), FormatError, "cannot be"),
        (_put(hidden_size="32"), FormatError, "hidden_size should be a whole number, not '32'"),
        (_put(hidden_size=10**400), FormatError, "at most 64 bits"),
        (_put(rms_norm_eps=10**400), FormatError, "a number of reasonable size"),
        (_put(head_dim=None, num_attention_heads=5), FormatError, "do not divide into 5 heads"),
        (_put(num_key_value_heads=3), FormatError, "cannot share 3 key/value heads"),
        (_put(num_hidden_layers=3), FormatError,
         "lacks tensor model.layers.2.input_layernorm.weight of shape [32]"),
        (_put(num_hidden_layers=1), FormatError, "which a Llama model of 1 layers"),
        (_put(vocab_size=65), FormatError,
         "tensor model.embed_tokens.weight should have shape [65, 32], not [64, 32]"),
        (_put(intermediate_size=64), FormatError, "should have shape [64, 32], not [56, 32]"),
        (_put(eos_token_id=64), FormatError, "eos_token_id should be an id below 64, not 64"),
        (_put(bos_token_id="x"), FormatError, "bos_token_id should be an id below 64, not 'x'"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(
    folder: Path,
    change: Callable[[dict[str, Any]], object],
    kind: type[AlpageError],
    message: str,
) -> None:
    edit(folder / "config.json", change)
    with pytest.raises(kind) as caught:
        open_model(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "message"),
    [
        ("model.norm.weight", torch.float32, (33,), "should have shape [32], not [33]"),
        ("lm_head.weight", torch.float32, None, "lacks tensor lm_head.weight of shape [64, 32]"),
        ("model.layers.0.self_attn.q_proj.bias", torch.float32, (32,), "has bias weights"),
        ("model.layers.0.self_attn.q_norm.weight", torch.float32, (8,), "does not have"),
        ("model.norm.weight", torch.int64, (32,), "has type I64"),
    ],
)
def test_weights_that_are_refused(
    folder: Path,
    name: str,
    dtype: torch.dtype,
    shape: tuple[int, ...] | None,
    message: str,
) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(name, None)
    if shape is not None:
        tensors[name] = torch.zeros(shape, dtype=dtype)
    save_file(tensors, file)
    with pytest.raises(AlpageError) as caught:
        open_model(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors",
              "C:x.safetensors", ".hidden.safetensors", "model.bin", 7, None, "\x1b.safetensors"],
)  # fmt: skip
def test_an_index_does_not_lead_out_of_its_folder(folder: Path, shard: Any) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="is not a plain name of a safetensors file"):
        open_model(folder)


def test_shards_that_do_not_agree_with_their_index(tmp_path: Path) -> None:
    save_model(tmp_path, shard="10KB")
    index = tmp_path / "model.safetensors.index.json"
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    good = index.read_text()

    def refusal() -> str:
        with pytest.raises(FormatError) as caught:
            open_model(tmp_path)
        return str(caught.value)

    edit(index, lambda v: v["weight_map"].update(extra=shards[0].name))
    assert "lacks tensor extra, which the index promises" in refusal()
    edit(index, lambda v: v["weight_map"].update({"extra": "model-9.safetensors"}))
    assert "lacks model-9.safetensors; the download is incomplete" in refusal()
    index.write_text(good)
    edit(index, lambda v: v["weight_map"].update({"model.norm.weight": shards[0].name}))
    assert "holds tensor model.norm.weight; the index says otherwise" in refusal()
    for content in ("{}", '{"weight_map": {}}', '{"weight_map": 1}', "", "[]"):
        index.write_text(content)
        refusal()
    index.write_text(good)
    shards[-1].write_bytes(shards[-1].read_bytes()[:-1])
    assert "is truncated" in refusal()


def test_files_that_are_missing(folder: Path) -> None:
    with pytest.raises(FormatError, match="give the folder that holds it"):
        open_model(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"neither model.safetensors nor model.safetensors.index"):
        open_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FormatError, match="holds no model"):
        open_model(folder)
    with pytest.raises(NotFoundError, match="there is no file"):
        open_model(folder / "nothing")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b""), ("config.json", b"null"), ("config.json", b"\xff"),
        ("config.json", b'{"a": 1, "a": 2}'), ("config.json", b"[" * 200_000),
        ("config.json", b" " * (1 << 23)), ("tokenizer.json", b"[]"), ("tokenizer.json", b"{"),
        ("tokenizer_config.json", b'{"chat_template": 5}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "x"}]}'),
        ("tokenizer_config.json", b'{"add_bos_token": "yes"}'),
        ("generation_config.json", b'{"eos_token_id": [2, "x"]}'),
        ("chat_template.jinja", b" " * (1 << 21)),
    ],
)  # fmt: skip
def test_damaged_side_files_are_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(FormatError) as caught:
        open_model(folder)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 500
