"""llama.cpp as a peer: it computes what we compute, so that what is timed is the same work."""

from pathlib import Path

import numpy as np
import pytest

from alpage.bench import llamacpp
from alpage.bench.cases import Case, token_ids
from alpage.bench.llamacpp import Context, LlamaCppSide, check_installed, library
from alpage.core.errors import FormatError, ResourceError, UsageError
from alpage.engine.native import NativeRunner
from alpage.engine.protocol import StepBatch
from alpage.weights.source import open_model

installed = pytest.mark.skipif(
    not llamacpp.is_installed(), reason="needs llama-cpp-python (the extra 'bench')"
)


def test_what_to_do_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "is_installed", lambda: False)
    with pytest.raises(UsageError, match=r"GGML_NATIVE=ON.* pip install llama-cpp-python==0\.3"):
        check_installed()


def test_one_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("libggml.so: wrong ELF class")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ResourceError, match=r"wrong ELF class.*build it again"):
        library()


@installed
def test_it_measures_every_kind_of_case(smollm2_path: Path) -> None:
    side = LlamaCppSide(smollm2_path, threads=1)
    try:
        assert side.load() > 0
        assert side.facts()["version"].startswith("llama-cpp-python ")
        assert "AVX2" in side.facts()["build"] or "NEON" in side.facts()["build"]
        for case in (Case("prefill", 16), Case("decode", 2, depth=8, sequences=2)):
            side.prepare(case)
            for _ in range(2):  # again from the same state
                assert all(side.run(case, variant) > 0 for variant in side.variants)
    finally:
        side.close()


@installed
def test_its_logits_are_ours(smollm2_path: Path) -> None:
    ids = token_ids(24, 40_000)
    with open_model(smollm2_path) as source:
        vocabulary = source.config.vocab_size
        runner = NativeRunner(source, threads=1, context_tokens=64)
    rows = np.arange(len(ids), dtype=np.int32)
    batch = StepBatch(ids, rows, 0 * rows, np.arange(4, dtype=np.int32)[None], rows[-1:])
    own = runner.forward(batch)[0].copy()
    runner.close()
    low = library()
    model = low.llama_model_load_from_file(
        str(smollm2_path).encode(), low.llama_model_default_params()
    )
    for flash in (True, False):
        context = Context(low, model, positions=24, sequences=1, threads=1, flash=flash)
        context.prefill(ids.tolist())
        theirs = context.logits(23, vocabulary)
        context.close()
        # Its one-byte activations alone move them so far: 0.9990 to 0.9991, by how it was compiled.
        assert np.corrcoef(own, theirs)[0, 1] > 0.998
    low.llama_model_free(model)


@installed
def test_a_file_that_it_cannot_load(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"no model")
    with pytest.raises(FormatError, match=r"llama\.cpp cannot load .*broken\.gguf"):
        LlamaCppSide(path, threads=1).load()
