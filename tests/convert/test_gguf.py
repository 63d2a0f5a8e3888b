"""A model written as GGUF is the model that it was, for Alpage and for llama.cpp."""

from pathlib import Path

import numpy as np
import pytest
from tests.convert import peers
from tests.parity.models import CONFIG, gguf_file, random_weights

from alpage.convert.gguf import export_gguf, part_names
from alpage.convert.rows import encode_floats
from alpage.core.errors import FormatError, UsageError
from alpage.weights.contents import ModelSource
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

KINDS = [TensorType.Q4_K, TensorType.Q8_0, TensorType.F16, TensorType.BF16, TensorType.Q6_K]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return gguf_file(tmp_path / "model.gguf", CONFIG, random_weights(CONFIG), KINDS)


def assert_equal(left: ModelSource, right: ModelSource) -> None:
    assert left.config == right.config
    assert left.tensors.keys() == right.tensors.keys()
    for name, tensor in left.tensors.items():
        other = right.tensors[name]
        assert (tensor.type, tensor.shape) == (other.type, other.shape), name
        assert np.array_equal(tensor.data, other.data), name


def test_blocks_and_metadata_are_kept_bit_by_bit(model: Path, tmp_path: Path) -> None:
    with open_model(model) as source:
        assert export_gguf(source, tmp_path / "copy.gguf") == [tmp_path / "copy.gguf"]
        with open_model(tmp_path / "copy.gguf") as copy:
            assert_equal(source, copy)
            assert source.gguf_metadata is not None and copy.gguf_metadata is not None
            added = {"general.name", "general.file_type", "general.quantization_version"}
            assert copy.gguf_metadata.keys() - source.gguf_metadata.keys() <= added
            assert source.gguf_metadata.items() <= copy.gguf_metadata.items()


def test_the_default_model_is_copied_and_runs_in_llamacpp(
    smollm2_path: Path, tmp_path: Path
) -> None:
    with open_model(smollm2_path) as source:
        parts = export_gguf(source, tmp_path / "copy.gguf", shard_bytes=60_000_000)
        (whole,) = export_gguf(source, tmp_path / "whole.gguf")
        with open_model(whole) as copy:
            assert_equal(source, copy)
            assert (copy.gguf_metadata, copy.gguf_kinds) == (
                source.gguf_metadata,
                source.gguf_kinds,
            )
    assert parts == part_names(tmp_path / "copy.gguf", 2)
    assert all(part.stat().st_size < 65_000_000 for part in parts)
    prompt = [504, 3575, 282, 4649, 314]
    wanted = peers.llamacpp(smollm2_path, prompt)
    assert peers.llamacpp(whole, prompt) == peers.llamacpp(parts[0], prompt) == wanted
    # Not compared with llama.cpp's: it rounds activations to a byte where Alpage takes two.
    assert peers.ours(whole, prompt) == peers.ours(smollm2_path, prompt)


def test_other_types_are_chosen_by_name(model: Path, tmp_path: Path) -> None:
    with open_model(model) as source:
        export_gguf(
            source,
            tmp_path / "other.gguf",
            choose=lambda name, shape, kind: (
                TensorType.F32 if name == "layers.1.attention.wq.weight" else kind
            ),
        )
        with open_model(tmp_path / "other.gguf") as other:
            for name, tensor in source.tensors.items():
                changed = name == "layers.1.attention.wq.weight" or len(tensor.shape) == 1
                assert other.tensors[name].type is (TensorType.F32 if changed else tensor.type)
                assert np.array_equal(other.tensors[name].dequantize(), tensor.dequantize())


def test_a_failure_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "x.gguf"
    target.parent.mkdir()
    target.write_bytes(b"before")

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with open_model(model) as source, pytest.raises(KeyboardInterrupt):
        export_gguf(source, target, progress=stop)
    assert [path.name for path in target.parent.iterdir()] == ["x.gguf"]
    assert target.read_bytes() == b"before"


def test_a_size_that_cannot_be_is_refused(model: Path, tmp_path: Path) -> None:
    with open_model(model) as source, pytest.raises(UsageError, match="0 bytes"):
        export_gguf(source, tmp_path / "x.gguf", shard_bytes=0)


@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.BF16])
def test_floats_are_rounded_as_torch_rounds_them(kind: TensorType) -> None:
    import torch

    rng = np.random.default_rng(3)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    if kind is TensorType.F16:
        values = values[~(np.abs(values) >= 65504)]
    wanted = torch.from_numpy(values.copy()).to(
        torch.float16 if kind is TensorType.F16 else torch.bfloat16
    )
    found = torch.from_numpy(encode_floats(values, kind).copy()).view(wanted.dtype)
    assert torch.equal(torch.isnan(found), torch.isnan(wanted))
    real = ~torch.isnan(wanted)
    assert torch.equal(found[real], wanted[real])


def test_a_weight_beyond_half_precision_is_refused() -> None:
    with pytest.raises(FormatError, match="70000"):
        encode_floats(np.array([1, 70000, -3], np.float32), TensorType.F16)
