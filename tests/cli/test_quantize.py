"""`alpage quantize` as a person calls it."""

import json
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import CHECKOUT, environment
from tests.parity.models import CONFIG, gguf_file, random_weights

from alpage.cli import main
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return gguf_file(tmp_path / "m.F16.gguf", CONFIG, random_weights(CONFIG), [TensorType.F16])


def test_a_model_gets_smaller(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["quantize", str(model), "q4_k_m", "--threads", "1", "--licence", "mit"]) == 0
    words, progress = capsys.readouterr()
    assert "m.Q4_K_M.gguf" in words
    assert "MB -> " in words
    assert "Q6_K" in words
    assert "(100 %)" in progress
    made = tmp_path / "m.Q4_K_M.gguf"
    with open_model(made) as source:
        assert source.tensors["layers.0.attention.wq.weight"].type is TensorType.Q4_K
    other = ["quantize", str(model), "Q8_0", "-o", str(tmp_path / "b.gguf"), "--licence", "mit"]
    assert main([*other, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["mix"] == "Q8_0"
    assert facts["file_bytes"] == (tmp_path / "b.gguf").stat().st_size
    assert facts["calibrated"] is False


def test_calibration_from_a_text(
    smollm2_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "words.txt"
    text.write_text("The sun rose over the hills, and the shepherd woke up. " * 20, "utf-8")
    out = tmp_path / "out.gguf"
    command = ["quantize", str(smollm2_path), "Q4_0", "-o", str(out), "--calibrate", str(text)]
    assert main([*command, "--calibrate-tokens", "64", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["tensors"]["Q4_1"] == 3  # the first eighth of ffn_down
    assert "calibrating: 64 tokens of 64 tokens (100 %)" in output.err
    assert "is quantised already (Q4_1)" in output.err
    with open_model(out) as source:
        assert source.gguf_metadata is not None
        (done,) = source.gguf_metadata["alpage.contributions"]
        assert "quantised to Q4_0, calibrated on words.txt, with Alpage" in done


def test_what_is_wrong_is_said_with_the_exit_code(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, text = tmp_path / "there.gguf", tmp_path / "short.txt"
    there.write_bytes(b"mine")
    text.write_text("too short", "utf-8")
    cases = [
        ([str(model), "Q9_9"], 2, "there is no type 'Q9_9'; there are F32"),
        ([str(model), "Q4_0", "-o", str(there)], 2, "there.gguf exists; --force replaces it"),
        ([str(model), "Q4_0", "-o", str(model), "--force"], 2, "is the model itself"),
        ([str(model), "Q4_0", "-o", str(tmp_path)], 2, "holds the model that is being converted"),
        ([str(model), "Q4_0", "--threads", "0"], 2, "threads must be between 1 and 1024"),
        ([str(model), "Q4_0", "--calibrate", str(tmp_path / "no.txt")], 1, "there is no file"),
        ([str(model), "Q4_0", "-o", str(tmp_path / "x.gguf"), "--calibrate", str(text),
          "--calibrate-tokens", "5", "--licence", "mit"],
         2, "--calibrate-tokens must be at least 32"),
        ([str(tmp_path / "none.gguf"), "Q4_0"], 1, "none.gguf"),
        ([str(model), "Q4_0", "-o", str(tmp_path / "x.gguf")], 2, "does not state its licence"),
    ]  # fmt: skip
    for arguments, code, message in cases:
        assert main(["quantize", *arguments]) == code, arguments
        output = capsys.readouterr()
        assert message in output.err, arguments
        assert output.out == ""
    assert there.read_bytes() == b"mine"
    mit = ["--licence", "mit"]
    assert {path.name for path in tmp_path.iterdir()} == {"m.F16.gguf", "there.gguf", "short.txt"}
    assert main(["quantize", str(model), "Q4_0", "-o", str(there), "--force", *mit]) == 0
    assert there.read_bytes()[:4] == b"GGUF"


def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path) -> None:
    import resource
    import subprocess

    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    command = [sys.executable, "-m", "alpage", "quantize", str(model), "Q8_0"]
    command[1:3] = ["-c", "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
                    "from alpage.cli import main; sys.exit(main())"]  # fmt: skip
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out.gguf"), "--licence", "mit"], capture_output=True,
        text=True, timeout=120, cwd=CHECKOUT, env=environment(tmp_path), preexec_fn=starve,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the file would be larger than is allowed here" in done.stderr
    assert list(tmp_path.iterdir()) == [model]
