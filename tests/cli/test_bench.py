"""`alpage bench` as a person calls it."""

import json
from pathlib import Path

import pytest

from alpage.bench import llamacpp, session
from alpage.bench.report import Report
from alpage.bench.turns import Progress
from alpage.cli import bench, main
from alpage.core.processors import usable_processors


def test_a_quick_run_prints_a_table_and_saves_everything(
    smollm2_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "figures" / "run.json"
    arguments = ["bench", str(smollm2_path), "--quick", "--runs", "1", "--threads", "1"]
    assert main([*arguments, "--json", str(saved)]) == 0
    table, notes = capsys.readouterr()
    for name in ("prefill 128", "decode, 4 together", "load", "peak resident memory"):
        assert name in table
    assert "1 threads, medians of 1 runs" in table
    assert "quick: shorter measurements" in notes
    assert "a claim needs at least 5" in notes
    assert f"saved as {saved}" in notes
    values = json.loads(saved.read_text("utf-8"))
    assert values["settings"]["threads"] == 1
    assert values["model"]["file"] == smollm2_path.name
    assert str(smollm2_path.parent) not in saved.read_text("utf-8")
    report = Report.from_json(saved.read_text("utf-8"))
    assert report.peer is None
    assert all(len(measured.best("alpage")) == 1 for measured in report.measurements)


def test_only_the_figures_that_are_asked_for(
    smollm2_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", str(smollm2_path), "--runs", "1", "--json", "-", "--only", "decode"]
    assert main([*arguments, "--only", "reading memory"]) == 0
    report = Report.from_json(capsys.readouterr().out)
    decode, memory, share = report.measurements
    assert [decode.name, memory.name, share.name] == [
        "decode", "reading memory", "decode, of that rate",
    ]  # fmt: skip
    # 106 million weights in blocks of 32 and 20 bytes, and a head of 28 million with 34 bytes.
    layers, head = 30 * 576 * (2 * 576 + 2 * 192 + 3 * 1536), 576 * 49152
    assert share.median("alpage") == pytest.approx(
        decode.median("alpage") * (layers * 20 + head * 34) / 32 / memory.median("alpage") / 1e7
    )
    assert main(["bench", str(smollm2_path), "--only", "loading"]) == 2
    assert "there is no figure 'loading'; there are: prefill 128; " in capsys.readouterr().err


def test_stages_are_shown_beside_their_limits(
    smollm2_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "stages.json"
    arguments = ["bench", str(smollm2_path), "--stages", "--runs", "1", "--threads", "1"]
    assert main([*arguments, "--json", str(saved)]) == 0
    shown = capsys.readouterr().out
    for words in ("decode at depth 1,024:", "prefill 512:", "gate and up", "of the limit", "GB/s"):
        assert words in shown
    cases = json.loads(saved.read_text("utf-8"))
    decode = {stage["name"]: stage for stage in cases[0]["stages"]}
    # 30 layers of 576 x 1,536, twice, in blocks of 32 weights and 20 bytes.
    products = 30 * 576 * 1536 * 2
    assert (decode["gate and up"]["products"], decode["gate and up"]["bytes"]) == (
        products,
        products * 20 // 32,
    )
    for case in cases:
        assert case["read_rate"] > 0
        for stage in case["stages"]:
            assert stage["seconds"] > 0
            assert (stage["limit"] > 0) == (stage["bytes"] > 0)
    assert main(["bench", str(smollm2_path), "--stages", "--quick"]) == 2
    assert "--stages measures Alpage alone" in capsys.readouterr().err


SHORT = ["--message-tokens", "6", "--answer-tokens", "4", "--system-tokens", "16"]


def test_loads_of_requests_in_miniature(
    smollm2_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    saved, drawn, text = (tmp_path / name for name in ("run.json", "run.png", "text.txt"))
    text.write_text("The road over the pass was closed in winter, and nobody came. " * 20, "utf-8")
    arguments = ["bench", str(smollm2_path), "--serve-like", "--runs", "1", "--threads", "1"]
    arguments += [*SHORT, "--requests", "6", "--text", str(text), "--seed", "3"]
    arguments += ["--requests-per-second", "30", "--concurrency", "2"]
    assert main([*arguments, "--json", str(saved), "--plot", str(drawn)]) == 0
    table, notes = capsys.readouterr()
    for name in ("30 a second: output", "2 together: first token, p95", "between tokens, p99"):
        assert name in table
    assert "measuring 2 together, warming up: alpage" in notes
    assert "a claim needs at least 5" in notes
    assert drawn.read_bytes()[:4] == b"\x89PNG"
    report = Report.from_json(saved.read_text("utf-8"))
    settings = report.settings
    assert (settings["kind"], settings["seed"], settings["prompts"]) == ("serving", 3, "text")
    assert settings["mean_tokens"] == {"message": 6, "answer": 4, "system": 16}
    assert [load["requests"] for load in settings["loads"]] == [6, 6]
    found = {measured.name: measured for measured in report.measurements}
    assert found["30 a second: finished"].median("alpage") == 6
    assert found["30 a second: output"].median("alpage") > 0
    asked = settings["asked"]["30 a second"]
    whole = found["30 a second: prompts and output"].median("alpage")
    output = found["30 a second: output"].median("alpage")
    assert whole / output == pytest.approx(1 + asked["prompt_tokens"] / asked["answer_tokens"], 0.1)


@pytest.mark.skipif(not llamacpp.is_installed(), reason="needs llama-cpp-python")
def test_loads_beside_the_slots_of_llama_cpp(
    smollm2_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", str(smollm2_path), "--serve-like", "--against", "llama.cpp", *SHORT]
    arguments += ["--runs", "1", "--threads", "1", "--requests", "6", "--temperature", "0"]
    assert main([*arguments, "--concurrency", "2", "--json", "-"]) == 0
    report = Report.from_json(capsys.readouterr().out)
    assert report.peer == "llama.cpp"
    assert list(report.engines) == ["alpage", "llama.cpp"]
    compared = {measured.name for measured in report.compared()}
    assert "2 together: first token, p95" in compared
    assert "2 together: finished" not in compared
    for measured in report.compared():
        assert min(measured.ratios("alpage", "llama.cpp")) > 0


def test_ways_of_measuring_are_not_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (["--concurrency", "4", "--seed", "0"], "--concurrency, --seed: only with --serve-like"),
        (["--serve-like", "--quick"], "--quick does not go with --serve-like"),
        (["--serve-like", "--make-shape", "1b"], "--make-shape does not go with --serve-like"),
        (["--serve-like", "--type", "Q8_0"], "--type and --out belong to --make-shape"),
        (["--serve-like", "--concurrency", "0"], "--concurrency must be between 1 and 1024"),
    ]
    for arguments, message in cases:
        assert main(["bench", *arguments]) == 2, arguments
        assert message in capsys.readouterr().err
    assert main(["bench", "--serve-like", "--text", "no-such-file"]) == 1
    assert "there is no file no-such-file" in capsys.readouterr().err


def test_json_on_standard_output_is_alone_there(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[session.Options] = []
    report = Report("2026-01-01", "alpage bench", {}, {}, {}, {"alpage": {}}, [])

    def measure(options: session.Options, progress: Progress) -> Report:
        given.append(options)
        progress("something")
        return report

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setenv("ALPAGE_ISA", "scalar")
    monkeypatch.setenv("ALPAGE_THREADS", "1")
    assert main(["bench", str(smollm2_path), "--json", "-"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["date"] == "2026-01-01"
    assert output.err == "measuring something\n"
    assert (given[0].threads, given[0].isa, given[0].runs) == (1, "scalar", 5)


def test_what_makes_no_sense_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALPAGE_HOME", str(tmp_path / "empty"))
    cases = [
        (["--runs", "0"], 2, "runs must be between 1 and 1000, not 0"),
        (["--threads", "5000"], 2, "threads must be between 1 and 1024"),
        (["--against", "ollama"], 2, "--against takes llama.cpp, not 'ollama'"),
        (["--program", "x"], 2, "--program is llama.cpp's"),
        (["--program", "x", "--against", "llama.cpp"], 2, "x is no program that can be run"),
        (["--plot", "a.png"], 2, "--plot draws a comparison"),
        (["no-such-model"], 1, "no model named"),
        ([str(tmp_path), "--against", "llama.cpp"], 2, "is a folder"),
    ]
    for arguments, code, message in cases:
        assert main(["bench", *arguments]) == code, arguments
        output = capsys.readouterr()
        assert message in output.err
        assert output.out == ""
    monkeypatch.setattr(llamacpp, "is_installed", lambda: False)
    assert main(["bench", "--against", "llama.cpp"]) == 2
    assert "pip install llama-cpp-python" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()


def test_notes_tell_what_disturbs_the_figures() -> None:
    options = session.Options(Path("m"), runs=3, quick=False)
    processors = usable_processors()
    settings = {"others_at_work": 0.75 * processors, "stolen": 0.031, "threads": processors + 1}
    notes = session._notes(options, ["prefill 512"], settings)
    assert [note.partition(":")[0] for note in notes] == [
        "3 runs",
        f"other programs were using {0.75 * processors:.1f} of {processors} processors",
        "this virtual machine did not get 3% of the processor time that it wanted",
        f"{processors + 1} threads on {processors} processors",
        "left out, longer than the model's context",
    ]
    quiet = {"others_at_work": 0.1, "stolen": 0.01, "threads": 1}
    assert session._notes(session.Options(Path("m")), [], quiet) == []
    unknown = {"others_at_work": None, "stolen": None, "threads": 1}
    assert session._notes(session.Options(Path("m")), [], unknown) == []
