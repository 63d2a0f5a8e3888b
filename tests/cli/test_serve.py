"""`alpage serve` as a program."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from alpage.cli.serve import names_of
from alpage.core.errors import UsageError
from alpage.server.process import warning

SECONDS = 120
ALPAGE = Path(sys.executable).with_name("alpage")


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ALPAGE_")}
    process = subprocess.Popen(
        [str(ALPAGE), "serve", *arguments],
        env=environment | {"ALPAGE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], SECONDS)
    assert ready, "the server did not start"
    return process.stdout.readline()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_default_model_until_a_signal(
    alpage_home: Path, smollm2_path: Path, how: signal.Signals
) -> None:
    with serving(alpage_home, "--port", "0", "--json", "--context", "256") as process:
        told = json.loads(first_line(process))
        assert told["models"] == ["smollm2"]
        assert told["pid"] == process.pid
        assert told["url"].startswith("http://127.0.0.1:")
        with openai.OpenAI(base_url=f"{told['url']}/v1", api_key="none") as client:
            answer = client.chat.completions.create(
                model="smollm2", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
            )
            assert answer.choices[0].message.content
            process.send_signal(how)
            output, errors = process.communicate(timeout=SECONDS)
        assert (process.returncode, output, errors) == (0, "", "")


def test_a_file_has_its_own_name_and_others_are_warned(
    alpage_home: Path, smollm2_path: Path
) -> None:
    arguments = (str(smollm2_path), "--host", "0.0.0.0", "--port", "0", "--context", "256")
    with serving(alpage_home, *arguments) as process:
        line = first_line(process)
        assert line.startswith("Serving SmolLM2-135M-Instruct.Q4_1 at http://0.0.0.0:")
        assert "/v1 (OpenAI's API). Ctrl-C ends it." in line
        port = line.partition("0.0.0.0:")[2].partition("/")[0]
        # Another name for this machine works here: the server is meant for others.
        answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers={"host": "models.example"})
        assert answer.json()["data"][0]["id"] == "SmolLM2-135M-Instruct.Q4_1"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0
    assert "Everyone who can reach 0.0.0.0 can use this server: it asks for no key" in errors


def fails(home: Path, *arguments: str) -> tuple[int, str]:
    with serving(home, *arguments) as process:
        output, errors = process.communicate(timeout=SECONDS)
    assert output == ""
    assert "Traceback" not in errors
    return process.returncode, errors


def test_a_taken_port_is_told_before_a_model_loads(alpage_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, errors = fails(alpage_home, "/no/such/model.gguf", "--port", str(port))
    assert code == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in errors
    assert "choose another with --port" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing-of-that-name"], 1, "there is no model named 'nothing-of-that-name'"),
        (["--port", "65536"], 2, "the port must be between 0 and 65535, not 65536"),
        (["--host", "no.such.host.invalid"], 2, "is no address of this machine"),
        (["--host", ""], 2, "'' is no address of this machine"),
        (["smollm2", "smollm2"], 2, "would both be called 'smollm2'"),
        (["--engine", "magic"], 2, "magic"),
    ],
)
def test_what_cannot_be_served(
    alpage_home: Path, arguments: list[str], code: int, message: str
) -> None:
    found, errors = fails(alpage_home, "--port", "0", *arguments)
    assert found == code
    assert message in errors


def test_names(tmp_path: Path) -> None:
    folder = tmp_path / "Some-Model"
    assert names_of(["smollm2", f"{folder}/", "a/b.Q4_0.gguf"]) == {
        "smollm2": "smollm2",
        "Some-Model": f"{folder}/",
        "b.Q4_0": "a/b.Q4_0.gguf",
    }
    with pytest.raises(UsageError, match=r"a/x\.gguf and b/x\.gguf would both be called 'x'"):
        names_of(["a/x.gguf", "b/x.gguf"])


def test_only_addresses_of_this_machine_are_safe() -> None:
    assert all(warning(host) is None for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))
    assert all(warning(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"))
