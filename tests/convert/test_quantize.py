"""A quantised model loads everywhere, keeps its answers, and says what was done to it."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.convert import peers
from tests.parity.models import CONFIG, gguf_file, random_weights

from alpage.convert.quantize import quantize
from alpage.core.errors import FormatError, UsageError
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

PROMPT = [504, 3575, 282, 4649, 314]


def test_the_default_model_in_the_usual_mix(smollm2_path: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    with open_model(smollm2_path) as source:
        made = quantize(
            source, tmp_path / "small.gguf", "q4_k_m", progress=lambda *state: heard.append(state)
        )
        assert made.bytes_before == source.weight_bytes
        name, licence = source.name, source.licence
    assert heard[-1] == (made.bytes_after, made.bytes_after)
    assert made.file_bytes == made.path.stat().st_size > made.bytes_after
    assert made.tensors == {"Q5_0": 166, "F32": 61, "Q4_K": 16, "Q8_0": 15, "Q6_K": 14}
    with open_model(made.path) as after:
        assert (after.name, after.licence, after.quantization) == (name, licence, "Q5_0")
        assert after.gguf_metadata is not None
        assert after.gguf_metadata["general.file_type"] == 15
        assert after.gguf_metadata["general.quantization_version"] == 2
        (done,) = after.gguf_metadata["alpage.contributions"]
        assert done.startswith("quantised to Q4_K_M with Alpage ")
        assert after.lineage.contributions[-1] == done
        assert after.weight_bytes == made.bytes_after
    assert peers.llamacpp(made.path, PROMPT) == peers.ours(made.path, PROMPT)


def test_the_package_gguf_reads_the_same_weights(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "a.gguf", CONFIG, random_weights(CONFIG), [TensorType.F32])
    for mix in ("Q4_K_M", "Q6_K", "Q8_0", "BF16"):
        with open_model(path) as source:
            quantize(source, tmp_path / "b.gguf", mix, licence="mit")
        theirs = {t.name: t for t in gguf.GGUFReader(tmp_path / "b.gguf").tensors}
        with open_model(tmp_path / "b.gguf") as made:
            for tensor in made.tensors.values():
                if len(tensor.shape) == 1 or tensor.row_order is not None:
                    continue
                (same,) = (t for t in theirs.values() if np.shares_memory(t.data, t.data)
                           and t.data.tobytes() == tensor.data.tobytes())  # fmt: skip
                exact = gguf.quants.dequantize(same.data, same.tensor_type)
                assert np.array_equal(exact.reshape(tensor.shape), tensor.dequantize())


def test_a_damaged_weight_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    weights["layers.1.feed_forward.w1.weight"][3, 7] = np.nan
    path = gguf_file(tmp_path / "a.gguf", CONFIG, weights, [TensorType.F32])
    with (
        open_model(path) as source,
        pytest.raises(FormatError, match=r"tensor layers.1.feed_forward.w1.weight: weight \[3, 7"),
    ):
        quantize(source, tmp_path / "b.gguf", "Q4_0", licence="mit")
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_leaves_without_a_licence(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "a.gguf", CONFIG, random_weights(CONFIG), [TensorType.F32])
    with open_model(path) as source:
        with pytest.raises(UsageError, match="does not state its licence"):
            quantize(source, tmp_path / "b.gguf", "Q4_0")
        with pytest.raises(UsageError, match="must begin with 'Llama'"):
            quantize(source, tmp_path / "b.gguf", "Q4_0", licence="llama3.1", name="Mine")
    assert list(tmp_path.iterdir()) == [path]
