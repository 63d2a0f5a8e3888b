"""The committed measuring programs: what they make and how they count."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks.models import PLAIN, make, tensor_types
from tests.bench.test_curve import CLOSED, serving_report
from tests.bench.test_report import SPEED, report
from tests.weights.gguf_files import U32, quantised, tiny_model

from alpage.bench.llamacpp import is_installed
from alpage.bench.report import Report
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType
from benchmarks import parity, quantize, render, scores, server_page


@pytest.mark.parametrize(
    ("answer", "agreed", "gap"),
    [
        ([1, 2, 3, 4], 4, None),
        ([1, 9, 3, 4], 1, 2.0),
        ([1, 2, 9, 9], 2, None),  # step 2 is a close call: what follows may differ
    ],
)
def test_greedy_texts_are_compared_up_to_the_first_close_call(
    answer: list[int], agreed: int, gap: float | None
) -> None:
    gaps = [1.0, 2.0, 0.01 if answer == [1, 2, 9, 9] else 1.0, 1.0]
    reference = list(zip([1, 2, 3, 4], gaps, strict=True))
    found = parity.first_difference([(token, 0.5) for token in answer], reference)
    assert found == (agreed, gap)


def test_there_are_sixty_different_prompts() -> None:
    lines = (parity.HERE / "prompts.txt").read_text("utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 60
    assert all(line.strip() for line in lines)


def test_the_deviation_has_the_error_of_paired_losses() -> None:
    right = np.random.default_rng(1).normal(3, 2, 1000)
    own = right + 0.01
    pair = [scores.Scores(float(np.exp(x.mean())), 0.0, x, 0.0) for x in (own, right)]
    found = scores.deviation(*pair)
    assert found["deviation"] == pytest.approx(math.exp(0.01) - 1)
    assert found["deviation_error"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_model_in_another_type_keeps_its_weights(kind: str, tmp_path: Path) -> None:
    source, target = tiny_model().write(tmp_path / "source.gguf"), tmp_path / "made.gguf"
    make(source, kind, target, 1)
    assert set(tensor_types(target)) == {kind}
    with open_model(source) as before, open_model(target) as after:
        assert before.config == after.config
        assert after.tensors["layers.0.attention.wq.weight"].type == TensorType[kind]
        for name, tensor in before.tensors.items():
            old, new = tensor.dequantize(), after.tensors[name].dequantize()
            tolerance = 0.0 if kind == "F32" or old.ndim == 1 else 0.15 * float(np.abs(old).max())
            np.testing.assert_allclose(new, old, atol=tolerance, rtol=0)


@pytest.mark.skipif(not is_installed(), reason="K types are written by llama.cpp")
@pytest.mark.parametrize(("kind", "rest"), [("Q4_K", "Q5_0"), ("Q5_K", "Q5_1"), ("Q6_K", "Q8_0")])
def test_k_types_are_made_by_llama_cpp(kind: str, rest: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source.gguf", tmp_path / "made.gguf"
    file = tiny_model().set("llama.feed_forward_length", U32, 256)
    for layer in range(2):  # only these rows hold whole blocks of 256
        for name, shape in {"gate": (256, 32), "up": (256, 32), "down": (32, 256)}.items():
            tensor = file.tensor(f"blk.{layer}.ffn_{name}.weight")
            tensor.dims, tensor.data = shape[::-1], quantised(TensorType.F32, shape, layer)
    make(file.write(source), kind, target, 1)
    found = tensor_types(target)
    assert found[rest] >= 8
    assert set(found) <= {rest, kind, "Q6_K", "Q8_0"}
    assert found.get(kind, 0) + (found.get("Q6_K", 0) if kind != "Q6_K" else 0) == 2
    assert sorted(tmp_path.iterdir()) == [target, source]


def test_a_row_of_the_table() -> None:
    row = {
        "tensors": {"Q4_K": 16, "Q6_K": 14},
        "native": {"perplexity": 15.6},
        "reference": {"perplexity": 15.59},
        "deviation": 0.00064,
        "deviation_error": 0.0001,
        "prompts": 60,
        "prompts_equal": 59,
        "steps_compared": 2000,
    }
    assert parity._table_row("Q4_K", row) == (
        "| Q4_K_M | 16 Q4_K, 14 Q6_K | 15.6000 | 15.5900 | +0.064% ± 0.010% | 59 of 60 | 2,000 |"
    )


def test_reports_become_a_page_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for year in (2025, 2027, 2026):
        path = tmp_path / f"{year}.json"
        path.write_text(report(SPEED).to_json().replace("2026-01-02T", f"{year}-01-02T"), "utf-8")
        files.append(str(path))
    monkeypatch.setattr(render, "PAGE", tmp_path / "engine.md")
    render.main(files)
    page = (tmp_path / "engine.md").read_text("utf-8")
    processor, *heads = [line for line in page.splitlines() if line.startswith("### ")]
    assert processor == "### A processor"
    head = "### model.gguf beside llama.cpp, avx2"
    assert heads == [f"{head}, {year}-01-02" for year in (2027, 2026, 2025)]
    assert page.count("| model.gguf | llama.cpp, avx2 |  |  | 3.00x |  |") == 3
    assert "| file | beside | prefill 128 | prefill 512 | decode | decode at 1,024 |" in page
    with pytest.raises(SystemExit):
        render.main([])


def test_reports_of_loads_become_a_page_of_their_own_with_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(render, "PAGE", tmp_path / "engine.md")
    monkeypatch.setattr(render, "SERVING_PAGE", tmp_path / "serving.md")
    results = tmp_path / "results"
    results.mkdir()
    (results / "serving-a.json").write_text(serving_report(CLOSED).to_json(), "utf-8")
    (results / "speed.json").write_text(report(SPEED).to_json(), "utf-8")
    render.main([str(results / "serving-a.json")])
    assert not (tmp_path / "engine.md").exists()  # nothing was given for it
    render.main([str(path) for path in results.glob("*.json")])
    assert "64 together" not in (tmp_path / "engine.md").read_text("utf-8")
    page = (tmp_path / "serving.md").read_text("utf-8")
    # Alpage 1, 2, 3 and llama.cpp 2, 2, 3: of rates less is worse, of seconds better.
    assert "| model.gguf | 64 together | 1.00x | 1.00x |" in page
    assert "| 64 together: first token, p95 | 2,000 ms | 2,000 ms | 1.00x (1.00 - 2.00) |" in page
    assert "| 64 together: output | 2.0 tokens/s | 2.0 tokens/s | 1.00x (0.50 - 1.00) |" in page
    assert "| 16 together: finished | 2.0 | 2.0 |  |" in page
    assert "](results/serving-a.png)" in page
    assert (results / "serving-a.png").read_bytes()[:4] == b"\x89PNG"


def test_the_page_of_loads_is_that_of_its_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed page; its pictures are drawn elsewhere."""
    files = sorted((render.PAGE.parent / "results").glob("serving-*.json"))
    committed = render.SERVING_PAGE.read_text("utf-8")
    if not files:
        assert committed == render.serving_page([])
        return
    monkeypatch.setattr(render, "SERVING_PAGE", tmp_path / "serving.md")
    monkeypatch.setattr(render, "draw_curve", lambda report, path: None)
    render.main([str(path) for path in files])
    assert committed == render.SERVING_PAGE.read_text("utf-8")


@pytest.mark.skipif(not is_installed(), reason="llama.cpp is what is compared with")
def test_quantisation_is_measured_and_shown(
    tmp_path: Path, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The sun rose over the hills, and the shepherd woke up. " * 100, "utf-8")
    monkeypatch.setattr(quantize, "SHAPES", {"wq": (8, 512)})
    monkeypatch.setattr(quantize, "model_tensors", lambda *_: quantize.random_tensors())
    shared = ["--calibrate", str(text), "--calibrate-tokens", "64", "--mixes", "Q4_0"]
    shared += ["--model", str(smollm2_path), "--threads", "1", "--out", str(tmp_path)]
    quantize.main([str(text), *shared, "--chunks", "1", "--runs", "1", "--no-large"])
    page = (tmp_path / "quantize.md").read_text("utf-8")
    for line in (
        "| Q4_K | ",
        "| Q4_0 | ",
        "| F16 -> Q4_0 | ",
        "1 chunks of 512 tokens of text.txt",
    ):
        assert line in page
    assert str(tmp_path) not in page
    assert {path.name for path in tmp_path.iterdir()} == {
        "text.txt", "quantize.json", "quantize.md",
    }  # fmt: skip


def test_the_servers_page_is_that_of_its_records() -> None:
    overload = json.loads(server_page.OVERLOAD.read_text("utf-8"))
    http = Report.from_json(server_page.HTTP.read_text("utf-8"))
    assert server_page.PAGE.read_text("utf-8") == server_page.page(overload, http)
