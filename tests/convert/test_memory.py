"""Converting takes memory for a part of one tensor, whatever the size of the model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.weights.meta_files import save_meta

from alpage.core.config import LlamaConfig
from alpage.weights.names import expected_shapes

SHAPE = LlamaConfig(
    vocab_size=24_000, dim=512, n_layers=10, n_heads=8, n_kv_heads=4, head_dim=64, ffn_dim=1536,
    context_length=8192, rope_theta=500_000.0,
)  # fmt: skip
LARGEST = SHAPE.vocab_size * SHAPE.dim * 4
CODE = """
import json, sys
from pathlib import Path
from alpage.convert.convert import convert
from alpage.weights.source import open_model
import alpage.convert.hf, alpage.convert.meta, zipfile

def peak():
    # Of this program alone: getrusage's maximum begins with that of the process that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

source, target, layout, shards = sys.argv[1:]
before = peak()
with open_model(Path(source)) as model:
    convert(model, Path(target), layout, kind="F32", licence="mit", name="m", shards=int(shards))
used = peak() - before
ballast = b"x" * 300_000_000
print(json.dumps([used, peak() - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_at_most_three_of_the_largest_tensor(tmp_path: Path) -> None:
    """A model of 240 MB through every reader and every writer, one process each."""
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) for name, shape in expected_shapes(SHAPE)}
    params = {
        "dim": 512, "n_layers": 10, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 24_000,
        "norm_eps": 1e-5, "rope_theta": 500_000.0,
    }  # fmt: skip
    start = save_meta(tmp_path / "start", weights, 2, params=params, config=SHAPE)
    del weights
    steps = [("gguf", "1"), ("hf", "1"), ("meta", "2"), ("hf", "1"), ("gguf", "1"), ("meta", "1")]
    path = start
    for number, (layout, shards) in enumerate(steps):
        target = tmp_path / f"{number}"
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(path), str(target), layout, shards],
            capture_output=True, text=True, timeout=600, check=True,
        )  # fmt: skip
        used, with_ballast = json.loads(done.stdout)
        assert with_ballast > 290e6, "the measurement does not see memory that is taken"
        print(f"{path.name} -> {layout}: {used / 1e6:.0f} MB; largest tensor {LARGEST / 1e6:.0f}")
        assert used <= 3 * LARGEST, f"{path.name} to {layout} took {used / LARGEST:.1f} tensors"
        path = target
    assert sum(file.stat().st_size for file in path.iterdir()) > 100e6
