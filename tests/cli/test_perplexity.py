"""`alpage perplexity` as a person calls it."""

import json
from pathlib import Path

import pytest

from alpage.cli import main


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_text("The sun rose over the hills, and the shepherd woke up. " * 20, "utf-8")
    return path


def test_the_figure_in_words_and_as_json(
    novel: Path, smollm2_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["perplexity", str(smollm2_path), str(novel), "--context", "64", "--threads", "1"]
    assert main(arguments) == 0
    words, progress = capsys.readouterr()
    assert words.startswith("perplexity ")
    assert " ± " in words
    assert "chunk 1 of " in progress
    assert main([*arguments, "--json", "--chunks", "2"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["chunks"] == 2
    assert facts["scored"] == 2 * 31
    assert facts["engine"] == "native"
    assert 1 < facts["value"] < 10  # it repeats itself: easy to predict


def test_the_reference_gives_the_same(
    novel: Path, smollm2_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = []
    for engine in ("native", "torch"):
        arguments = [str(smollm2_path), str(novel), "--context", "64", "--chunks", "1"]
        # One chunk of two: the text must still be long enough for a fair figure.
        code = main(["perplexity", *arguments, "--engine", engine, "--threads", "1", "--json"])
        assert code == 0
        values.append(json.loads(capsys.readouterr().out)["value"])
    assert values[0] == pytest.approx(values[1], rel=0.02)


def test_the_type_of_the_cache(
    novel: Path, smollm2_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["perplexity", str(smollm2_path), str(novel), "--context", "64", "--chunks", "2",
                 "--threads", "1", "--json", "--kv-type"]  # fmt: skip
    found = {}
    for kv in ("bf16", "int8"):
        assert main([*arguments, kv]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["kv_type"] == kv
        found[kv] = facts["value"]
    assert found["int8"] != found["bf16"]
    assert found["int8"] == pytest.approx(found["bf16"], rel=0.02)
    assert main([*arguments, "int8", "--engine", "torch"]) == 2
    assert "the engine 'torch' has no int8 cache" in capsys.readouterr().err


def test_what_is_wrong_is_said_with_the_exit_code(
    tmp_path: Path, smollm2_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latin, short = tmp_path / "latin.txt", tmp_path / "short.txt"
    latin.write_bytes("ein Käse".encode("latin-1"))
    short.write_text("too short", "utf-8")
    model = str(smollm2_path)
    cases = [
        ([model, str(tmp_path / "none.txt")], 1, "there is no file"),
        ([model, str(tmp_path)], 2, "is a folder; give a text file"),
        ([model, str(latin)], 1, "is not UTF-8 text: byte 0xe4 at offset 5"),
        ([model, str(short)], 1, "2 chunks of 512 need 1,024"),
        ([model, str(short), "--context", "4"], 2, "--context must be at least 8"),
        ([model, str(short), "--context", "9000"], 2, "the model's 8192"),
        (["no-such-model", str(short)], 1, "no model named 'no-such-model'"),
        ([model], 2, "Missing argument"),
    ]
    for arguments, code, message in cases:
        assert main(["perplexity", *arguments]) == code, arguments
        output = capsys.readouterr()
        assert message in output.err, arguments
        assert output.out == ""
