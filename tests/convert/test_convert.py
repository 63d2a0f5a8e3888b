"""Any format into any other: the same model, for Alpage and for other people's software."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.convert import models, peers
from tests.weights.meta_files import save_meta
from tests.weights.test_meta import canonical
from tests.weights.test_meta import judge as meta_judge

from alpage.convert.convert import Converted, Layout, convert
from alpage.core.errors import UnsupportedError, UsageError
from alpage.weights.contents import ModelSource
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

PROMPT = [5, 17, 3, 90, 41, 41, 7, 66, 2, 30]
LAYOUTS: tuple[Layout, ...] = ("gguf", "hf", "meta")
FORMATS = {"gguf": "gguf", "hf": "huggingface", "meta": "meta"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    hf = models.hf_model(folder / "hf")
    with open_model(hf) as source:
        made = convert(source, folder / "bf16.gguf", "gguf", name="tiny")
    return {"hf": hf, "meta": models.meta_model(folder / "meta"), "gguf": made.target}


def to(path: Path, target: Path, layout: Layout, **options: Any) -> Converted:
    with open_model(path) as source:
        options.setdefault("licence", "apache-2.0")
        return convert(source, target, layout, **options)


def assert_same(left: ModelSource, right: ModelSource, *, bits: bool = True) -> None:
    """The same numbers in the same places, and bit by bit the same matrices."""
    assert left.config.inverse_frequencies() == right.config.inverse_frequencies()
    assert left.config.tied == right.config.tied
    assert left.config.context_length == right.config.context_length
    assert np.float32(left.config.norm_eps) == np.float32(right.config.norm_eps)
    for name, tensor in left.tensors.items():
        other = right.tensors[name]
        if bits and len(tensor.shape) == 2:
            assert other.type is tensor.type, name
        assert np.array_equal(tensor.dequantize(), other.dequantize()), name


def run_by_others(path: Path, layout: Layout) -> list[int]:
    """Greedy tokens of the engine that owns the format."""
    if layout == "gguf":
        file = path if path.is_file() else next(path.glob("*.gguf"))
        return peers.llamacpp(file, PROMPT)
    return peers.transformers(path, PROMPT)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("start", LAYOUTS)
def test_every_direction_keeps_every_bit(
    sources: dict[str, Path], tmp_path: Path, start: Layout, layout: Layout
) -> None:
    done = to(sources[start], tmp_path / "out", layout, name="tiny")
    with open_model(sources[start]) as source, open_model(done.target) as result:
        assert result.format == FORMATS[layout]
        assert done.stored == result.quantization == "BF16"
        assert_same(source, result)


@pytest.mark.parametrize("start", LAYOUTS)
def test_transformers_runs_what_is_written(
    sources: dict[str, Path], tmp_path: Path, start: Layout
) -> None:
    done = to(sources[start], tmp_path / "out", "hf", kind="F32")
    assert peers.transformers(done.target, PROMPT) == peers.reference(sources[start], PROMPT)
    wanted = peers.logits(sources[start], PROMPT)
    found = peers.transformers_logits(done.target, PROMPT)
    np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", ["keep", "F32", "F16", "BF16"])
@pytest.mark.parametrize("start", LAYOUTS)
def test_llamacpp_runs_what_is_written(
    sources: dict[str, Path], tmp_path: Path, start: Layout, kind: Any
) -> None:
    done = to(sources[start], tmp_path / "out.gguf", "gguf", kind=kind)
    assert peers.llamacpp(done.target, PROMPT) == peers.reference(sources[start], PROMPT)


@pytest.mark.parametrize("start", LAYOUTS)
def test_torch_loads_what_is_written(
    sources: dict[str, Path], tmp_path: Path, start: Layout
) -> None:
    """In shards, each the part that Meta's own code would give to its processor."""
    done = to(sources[start], tmp_path / "out", "meta", shards=4)
    wanted = save_meta(tmp_path / "wanted", _weights(sources[start]), 4)
    for shard in range(4):
        name = f"consolidated.{shard:02d}.pth"
        found = torch.load(done.target / name, weights_only=True, mmap=True)
        expected = torch.load(wanted / name, weights_only=True)
        expected.pop("rope.freqs")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
    with open_model(sources[start]) as source, open_model(done.target) as result:
        assert_same(source, result)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    with open_model(path) as source:
        return {
            name: torch.from_numpy(tensor.dequantize()).bfloat16()
            for name, tensor in source.tensors.items()
        }


@pytest.mark.parametrize("layout", ["hf", "meta"])
@pytest.mark.parametrize(("kind", "stored"), [("keep", "F16"), ("F32", "F32"), ("BF16", "BF16")])
def test_quantised_weights_become_numbers(
    tmp_path: Path, layout: Layout, kind: Any, stored: str
) -> None:
    path = models.gguf_model(tmp_path / "q.gguf")
    done = to(path, tmp_path / "out", layout, kind=kind)
    types = {"F16": np.float16, "F32": np.float32}
    with open_model(path) as source, open_model(done.target) as result:
        assert result.quantization == done.stored == stored
        for name, tensor in source.tensors.items():
            wanted = tensor.dequantize()
            if kind == "BF16":
                wanted = torch.from_numpy(wanted).bfloat16().float().numpy()
            elif len(tensor.shape) == 2 or kind != "keep":
                wanted = wanted.astype(types[stored]).astype(np.float32)
            assert np.array_equal(result.tensors[name].dequantize(), wanted), name


def test_quantised_blocks_are_kept_in_gguf(tmp_path: Path) -> None:
    path = models.gguf_model(tmp_path / "q.gguf")
    done = to(path, tmp_path / "folder", "gguf", name="a/b: c")
    assert [file.name for file in done.files] == ["README.md", "a-b--c.gguf"]
    with open_model(path) as source, open_model(done.target) as result:
        assert_same(source, result)


@pytest.mark.parametrize("layout", ["gguf", "hf"])
def test_large_models_are_split_by_size(
    sources: dict[str, Path], tmp_path: Path, layout: Layout
) -> None:
    done = to(sources["hf"], tmp_path / "out", layout, shard_bytes=60_000, name="tiny")
    weights = [file for file in done.files if file.suffix in (".gguf", ".safetensors")]
    assert len(weights) > 3
    assert all(file.stat().st_size < 70_000 for file in weights)
    wanted = peers.reference(sources["hf"], PROMPT)
    opened = done.target if layout == "hf" else weights[1]  # any part opens the whole
    with open_model(sources["hf"]) as source, open_model(opened) as result:
        assert_same(source, result)
    if layout == "hf":
        assert peers.transformers(done.target, PROMPT) == wanted
    else:
        assert peers.llamacpp(weights[0], PROMPT) == wanted
        assert weights[0].name == f"tiny-00001-of-{len(weights):05d}.gguf"


@pytest.mark.parametrize("tied", [False, True])
def test_llama_3_scaling_goes_through_gguf_and_back(tmp_path: Path, tied: bool) -> None:
    path = models.hf_model(tmp_path / "hf", tied=tied, factor=32.0)
    gguf = to(path, tmp_path / "x.gguf", "gguf").target
    with open_model(gguf) as source:
        assert source.config.rope_factors is not None and source.config.rope_scaling is None
    back = to(gguf, tmp_path / "back", "hf").target
    meta = to(gguf, tmp_path / "meta", "meta").target
    with open_model(path) as first, open_model(back) as again, open_model(meta) as theirs:
        assert first.config == again.config == theirs.config
        assert_same(first, again)
    scaling = json.loads((back / "config.json").read_text())["rope_scaling"]
    assert scaling["factor"] == 32 and scaling["original_max_position_embeddings"] == 8192
    params = json.loads((meta / "params.json").read_text())
    assert params["use_scaled_rope"] and ("rope_scaling_factor" in params) == (not tied)
    assert peers.llamacpp(gguf, PROMPT) == peers.reference(path, PROMPT)


def test_divisors_of_no_known_formula_stay_in_gguf(tmp_path: Path) -> None:
    from tests.weights.gguf_files import F32, STRING, Stored, tiny_model

    file = tiny_model().set("general.license", STRING, "mit").set("llama.rope.freq_base", F32, 1e4)
    odd = np.array([1, 2, 1, 5], np.float32)
    for key in ("model", "tokens", "token_type", "bos_token_id", "eos_token_id"):
        file.drop(f"tokenizer.ggml.{key}")
    file.tensors.append(Stored("rope_freqs.weight", (4,), 0, odd.tobytes()))
    path = file.write(tmp_path / "odd.gguf")
    for layout in ("hf", "meta"):
        with pytest.raises(UnsupportedError, match="rotary divisors"):
            to(path, tmp_path / "out", layout)
        assert not (tmp_path / "out").exists()
    copy = to(path, tmp_path / "copy.gguf", "gguf").target
    with open_model(path) as source, open_model(copy) as result:
        assert source.config == result.config
        assert result.config.rope_factors == (1, 2, 1, 5)


def test_linear_scaling_has_no_place_in_metas_layout(tmp_path: Path) -> None:
    path = models.hf_model(tmp_path / "hf", factor=None)
    config = json.loads((path / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="rotary scaling"):
        to(path, tmp_path / "out", "meta")
    gguf = to(path, tmp_path / "x.gguf", "gguf").target
    back = to(gguf, tmp_path / "back", "hf").target
    with open_model(path) as source, open_model(back) as result:
        assert result.config == source.config
    wanted = peers.reference(path, PROMPT)
    assert peers.llamacpp(gguf, PROMPT) == peers.transformers(back, PROMPT) == wanted


def test_a_shape_that_meta_cannot_say_is_refused(tmp_path: Path) -> None:
    path = models.gguf_model(tmp_path / "q.gguf")
    with pytest.raises(UsageError, match="cannot be shared by 3"):
        to(path, tmp_path / "out", "meta", shards=3)
    wide = meta_judge(False, 8.0)
    wide.config.head_dim = 16
    folder = models.hf_model(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**{**config, "head_dim": 16})).save_pretrained(folder)
    with pytest.raises(UnsupportedError, match="dimensions; this model's have 16"):
        to(folder, tmp_path / "out", "meta")
    assert not (tmp_path / "out").exists()


def test_the_ffn_of_every_size_can_be_said() -> None:
    from dataclasses import replace

    from tests.parity.models import CONFIG

    from alpage.convert.meta import params

    known = {(4096, 14336): (1024, 1.3), (8192, 28672): (4096, 1.3), (2048, 8192): (256, 1.5),
             (3072, 8192): (256, 1.0), (16384, 53248): (4096, 1.2), (4096, 11008): (256, None),
             (576, 1536): (256, None)}  # fmt: skip
    for dim in (32, 576, 4096, 16384):
        for ffn in (1, 3, 17, 1536, 14336, 53248, 99991):
            known.setdefault((dim, ffn), (0, 0))
    for dim, ffn in known:
        found = params(replace(CONFIG, dim=dim, n_heads=1, n_kv_heads=1, head_dim=dim, ffn_dim=ffn))
        hidden = int(2 * (4 * dim) / 3)  # as in Meta's FeedForward
        if "ffn_dim_multiplier" in found:
            hidden = int(found["ffn_dim_multiplier"] * hidden)
        multiple = found["multiple_of"]
        assert multiple * ((hidden + multiple - 1) // multiple) == ffn


def test_canonical_names_cover_the_judge() -> None:
    assert len(canonical(meta_judge(True, 8.0))) == 2 + 9 * 2


def test_a_source_without_a_tokenizer_gets_none(sources: dict[str, Path], tmp_path: Path) -> None:
    done = to(sources["hf"], tmp_path / "out", "hf")
    assert not [file for file in done.files if "token" in file.name]
    with open_model(done.target) as result:
        assert (result.bos_id, result.licence) == (1, "apache-2.0")
        assert result.eos_ids == frozenset({2})
        assert result.tensors["norm.weight"].type is TensorType.BF16


def test_a_copy_of_a_folder_is_whole(sources: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(sources["hf"], tmp_path / "copy")
    done = to(tmp_path / "copy", tmp_path / "out", "hf")
    with open_model(tmp_path / "copy") as source, open_model(done.target) as result:
        assert source.config == result.config
