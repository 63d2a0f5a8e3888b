"""`alpage run`: what goes to standard output, what does not, and where the prompt comes from."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import PROGRAM, Alpage, environment
from tests.cli.speaker import write_speaker
from tests.cli.terminal import CTRL_C, terminal

from alpage.cli.run import model_and_prompt
from alpage.core.errors import UsageError


def test_nothing_but_the_answer(alpage: Alpage, parrot: Path) -> None:
    done = alpage("run", parrot, "Hello")
    assert (done.stdout, done.stderr, done.returncode) == ("Hi.\n", "", 0)


def test_an_answer_that_follows_a_grammar(
    alpage: Alpage, smollm2_path: Path, tmp_path: Path
) -> None:
    schema = '{"type": "object", "properties": {"n": {"const": 7}}, "required": ["n"], '
    schema += '"additionalProperties": false}'
    (tmp_path / "schema.json").write_text(schema)
    (tmp_path / "sum.lark").write_text('start: "1" ("+" "1")~2')
    for option, value, answer in (
        ("--json-schema", schema, '{"n": 7}\n'),
        ("--json-schema", "schema.json", '{"n": 7}\n'),
        ("--regex", "yes{3}", "yesss\n"),
        ("--grammar", "sum.lark", "1+1+1\n"),
    ):
        done = alpage("run", smollm2_path, "Count.", option, value)
        assert (done.stdout, done.stderr, done.returncode) == (answer, "", 0)
    for options, message in (
        (("--json-schema", '{"uniqueItems": true}'), "uniqueItems"),
        (("--json-schema", "missing.json"), "--json-schema cannot read missing.json"),
        (("--grammar", tmp_path), "--grammar cannot read"),
        (("--regex", "("), "unclosed group"),
        (("--regex", "a", "--grammar", "sum.lark"), "give --regex or --grammar"),
    ):
        done = alpage("run", smollm2_path, "Count.", *options)
        assert (done.stdout, done.returncode) == ("", 2)
        assert message in done.stderr


def test_one_line_end_and_not_two(alpage: Alpage, tmp_path: Path) -> None:
    path = write_speaker(tmp_path / "line.gguf", b"Hi.\n")
    # In this model "\n" is also the template's last token: without a template it ends the answer.
    assert alpage("run", path, "--raw", "Hello").stdout == "Hi.\n"


def test_the_prompt_from_standard_input(alpage: Alpage, parrot: Path) -> None:
    for arguments in (("run", parrot, "-"), ("run", parrot)):
        assert alpage(*arguments, stdin="Hello\n").stdout == "Hi.\n"
    counted = alpage("run", parrot, "--raw", "--json", stdin="12\u00e9\r\n")
    assert json.loads(counted.stdout)["usage"]["prompt_tokens"] == 4, "without the line end"


def test_what_a_single_argument_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alpage.cli.run._from_standard_input", lambda: "from the pipe")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    for first, second, wanted in (
        ("Hello", None, ("smollm2", "Hello")),
        ("models", None, ("smollm2", "models")),
        ("Yes and/or no?", None, ("smollm2", "Yes and/or no?")),
        ("-", None, ("smollm2", "from the pipe")),
        (None, None, ("smollm2", "from the pipe")),
        ("smollm2", None, ("smollm2", "from the pipe")),
        ("none.gguf", None, ("none.gguf", "from the pipe")),
        ("What is in none.gguf", None, ("smollm2", "What is in none.gguf")),
        ("./models", None, ("./models", "from the pipe")),
        ("a", "b", ("a", "b")),
        ("a", "-", ("a", "from the pipe")),
    ):
        assert model_and_prompt(first, second) == wanted
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with pytest.raises(UsageError, match=r'alpage run smollm2 "\.\.\.", or alpage chat smollm2'):
        model_and_prompt("smollm2", None)


def test_control_characters_stay_inside(alpage: Alpage, tmp_path: Path) -> None:
    """In text they are left out, in JSON escaped; U+009B alone can begin a terminal sequence."""
    says = b"a\x1b[2J\x07\r\x00\t\xc2\x9bz\x7f"
    path = write_speaker(tmp_path / "evil.gguf", says)
    assert alpage("run", path, "Hello").stdout == "a[2J\tz\n"
    done = alpage("run", path, "Hello", "--json")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", done.stdout)
    assert json.loads(done.stdout)["text"] == says.decode()


def test_json(alpage: Alpage, parrot: Path) -> None:
    done = alpage("run", parrot, "Hello", "--json", "--seed", "7", "--logprobs", "2")
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert (answer["model"], answer["text"], answer["seed"]) == ("Speaker", "Hi.", 7)
    assert (answer["finish_reason"], answer["stop"]) == ("stop", None)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert {name for name, value in answer["timings"].items() if value > 0} == {
        "load_seconds", "first_token_seconds", "prefill_seconds", "decode_seconds",
        "prefill_tokens_per_second", "decode_tokens_per_second",
    }  # fmt: skip
    assert [entry["text"] for entry in answer["logprobs"]] == ["H", "i", "."]
    assert all(len(entry["top"]) == 2 for entry in answer["logprobs"])
    assert answer["logprobs"][0]["top"][0]["id"] == ord("H")
    cut = json.loads(alpage("run", parrot, "Hello", "--json", "--stop", "i", "--stop", "x").stdout)
    assert (cut["text"], cut["finish_reason"], cut["stop"]) == ("H", "stop", "i")
    short = json.loads(alpage("run", parrot, "Hello", "--json", "--max-tokens", "2").stdout)
    assert (short["text"], short["finish_reason"]) == ("Hi", "length")


def test_stats_go_to_standard_error(alpage: Alpage, parrot: Path) -> None:
    done = alpage("run", parrot, "--raw", "Hello", "--stats")
    assert done.stdout == "Hi.\n"
    wanted = (r"prompt       5 tokens, [\d,]+ a second", r"answer       3 tokens, [\d,]+ a second",
              r"first token  after [\d.]+ s", r"model        loaded in [\d.]+ s")  # fmt: skip
    lines = done.stderr.splitlines()
    assert len(lines) == len(wanted)
    for line, pattern in zip(lines, wanted, strict=True):
        assert re.fullmatch(pattern, line)


def test_a_full_context_is_said(alpage: Alpage, tmp_path: Path) -> None:
    path = write_speaker(tmp_path / "endless.gguf", b"ab", endless=True)
    done = alpage("run", path, "--raw", "Hello", "--context", "32")
    assert re.fullmatch(r"(ab){13,14}a?\n", done.stdout)
    assert "the context of 32 tokens is full" in done.stderr
    assert done.returncode == 0
    options = ("--context", "32", "--context-policy", "shift", "--max-tokens", "100")
    done = alpage("run", path, "--raw", "Hello", *options)
    assert (done.stdout, done.stderr) == ("ab" * 50 + "\n", "")


def test_sampling_options_reach_the_model(alpage: Alpage, smollm2_path: Path) -> None:
    options = ("--temperature", "1.5", "--top-p", "1", "--max-tokens", "12", "--raw", "--threads")
    texts = {
        alpage("run", smollm2_path, "The", *options, "1", "--seed", seed).stdout
        for seed in ("1", "1", "2")
    }
    assert len(texts) == 2
    greedy = {
        alpage("run", smollm2_path, "The", *options, "1", "--seed", "1", *more).stdout
        for more in (("--temperature", "0"), ("--top-k", "1"), ("--min-p", "1"), ("--top-p", "0"))
    }
    assert len(greedy) == 1, "each of them alone leaves the likeliest token only"


def test_the_reference_engine_gives_the_same_answer(alpage: Alpage, parrot: Path) -> None:
    pytest.importorskip("torch")
    assert alpage("run", parrot, "Hello", "--engine", "torch").stdout == "Hi.\n"


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_ctrl_c(home: Path, tmp_path: Path, json: tuple[str, ...]) -> None:
    path = write_speaker(tmp_path / "endless.gguf", b"ab", endless=True)
    command = [
        str(PROGRAM),
        "run",
        str(path),
        "Hello",
        "--context-policy",
        "shift",
        "--stats",
        *json,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        env=environment(home), text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        if json:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(3)
        else:
            assert process.stdout.read(4) == "abab"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "alpage: interrupted\n")


def test_in_a_terminal(home: Path, tmp_path: Path, parrot: Path) -> None:
    path = write_speaker(tmp_path / "endless.gguf", b"ab", endless=True)
    with terminal("run", path, "Hello", "--context-policy", "shift", home=home) as shell:
        shell.wait("abab")
        shell.type(CTRL_C)
        shell.wait("\r\nalpage: interrupted")
        assert shell.exit_code() == 130
    with terminal("run", parrot, "Hello", home=home) as shell:
        assert shell.exit_code() == 0
    assert shell.text == "Hi.\r\n", "no colour, no progress"
    with terminal("run", parrot, home=home) as shell:
        assert shell.exit_code() == 2
    assert "there is no prompt" in shell.text
