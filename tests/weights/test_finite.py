"""NaN and infinity are found in every type: by asking, and by the engine when it loads."""

from pathlib import Path

import numpy as np
import pytest
from tests.weights.gguf_files import GgufFile, Stored, quantised, tiny_model

from alpage.core.errors import FormatError
from alpage.engine.native import NativeRunner
from alpage.weights.dequantize import BLOCK_LAYOUTS
from alpage.weights.finite import check_finite
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType

NAME = "blk.1.ffn_down.weight"


def model_with(kind: TensorType, field: str | None, value: int) -> GgufFile:
    """The tiny model, its second `ffn_down` 32 x 256 of type `kind`; the last block's `field` is
    the half (or bfloat16, float) with the bits `value`."""
    data = bytearray(quantised(kind, (32, 256), 7))
    if field is not None:
        layout = BLOCK_LAYOUTS[kind.name].dtype
        blocks = np.frombuffer(data, layout)
        wide = layout[field].base.itemsize == 4
        bits = np.array([value << 16 if wide else value], np.uint32 if wide else np.uint16)
        blocks[field].view(bits.dtype)[-1] = bits
    model = tiny_model()
    for layer in range(2):
        for name in ("ffn_gate", "ffn_up", "ffn_down"):
            old = model.tensor(f"blk.{layer}.{name}.weight")
            dims = (256, 32) if name == "ffn_down" else (32, 256)
            old.dims, old.data = dims, quantised(TensorType.F32, dims[::-1], layer)
    model.tensors = [
        Stored(NAME, (256, 32), int(kind), bytes(data)) if t.name == NAME else t
        for t in model.tensors
    ]
    return model.set("llama.feed_forward_length", 4, 256)


@pytest.mark.parametrize("kind", list(TensorType), ids=lambda kind: kind.name)
def test_odd_scales_and_weights_are_found_in_every_type(kind: TensorType, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with open_model(model_with(kind, None, 0).write(path)) as source:
        seen: list[tuple[int, int]] = []
        check_finite(source, lambda done, total: seen.append((done, total)))
        assert seen[-1] == (source.config.parameter_count,) * 2
        NativeRunner(source, threads=1, context_tokens=16).close()
    names = BLOCK_LAYOUTS[kind.name].dtype.names or ()
    floats = [name for name in names if name in ("d", "m", "dmin", "x")]
    assert floats
    wide = kind in (TensorType.F32, TensorType.BF16)
    nan, infinity = (0x7FC0, 0x7F80) if wide else (0x7E00, 0xFC00)
    for field in floats:
        for value in (nan, infinity):
            with open_model(model_with(kind, field, value).write(path)) as source:
                message = r"model\.gguf: tensor layers\.1\.feed_forward\.w2\.weight holds NaN"
                with pytest.raises(FormatError, match=message):
                    check_finite(source)
                with pytest.raises(FormatError, match=message):
                    NativeRunner(source, threads=1, context_tokens=16)
