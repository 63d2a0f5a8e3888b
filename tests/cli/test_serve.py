"""`alpage serve` as a program."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from alpage.cli.serve import command, names_of
from alpage.core.errors import CapacityError, UsageError
from alpage.server.process import check_exposed, warning

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


def test_a_file_has_its_own_name_and_options_win_over_a_configuration(
    alpage_home: Path, smollm2_path: Path, tmp_path: Path
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        '[server]\nport = 1\nallowed_hosts = ["models.example"]\n'
        '[[model]]\nname = "other"\nmodel = "smollm2"\n'
    )
    options = ("--config", str(config), "--port", "0", "--context", "256", "--any")
    with serving(alpage_home, str(smollm2_path), *options) as process:
        line = first_line(process)
        assert line.startswith("Serving SmolLM2-135M-Instruct.Q4_1 at http://127.0.0.1:")
        url = line.partition(" at ")[2].strip()
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(3)]
        assert f"{url}/v1 (OpenAI's API)" in told[1]
        assert told[2] == "No key is configured, so only this machine can ask. Ctrl-C ends it.\n"
        answer = httpx.get(f"{url}/v1/models", headers={"host": "models.example"})
        models = {model["id"]: model["context_length"] for model in answer.json()["data"]}
        assert models["SmolLM2-135M-Instruct.Q4_1"] == 256
        assert models["smollm2"] == 8192  # on this machine, and not loaded yet
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            texts = {
                client.completions.create(
                    model=name, prompt="One, two,", max_tokens=4, temperature=0
                )
                .choices[0]
                .text
                for name in ("smollm2", "SmolLM2-135M-Instruct.Q4_1")
            }
        assert len(texts) == 1
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
        assert (process.returncode, errors) == (0, "")


def test_a_second_signal_ends_at_once(alpage_home: Path, smollm2_path: Path) -> None:
    with serving(alpage_home, "--port", "0", "--json", "--grace", "1h") as process:
        url = json.loads(first_line(process))["url"]
        endless = {"model": "smollm2", "prompt": "On", "max_tokens": 10**6, "stream": True,
                   "context_policy": "shift",
                   "logit_bias": {"0": -100, "1": -100, "2": -100}}  # fmt: skip
        begun = threading.Event()

        def read() -> None:
            with (
                contextlib.suppress(httpx.HTTPError),  # cut off in the end
                httpx.stream("POST", f"{url}/v1/completions", json=endless, timeout=60) as answer,
            ):
                for _ in answer.iter_lines():
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(SECONDS)
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + SECONDS
        while httpx.get(f"{url}/ready").status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert httpx.get(f"{url}/ready").json() == {"status": "draining"}
        refused = httpx.post(f"{url}/v1/completions", json=endless)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert process.poll() is None  # it would give the answer an hour
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
        reader.join(SECONDS)
        assert process.returncode == 0


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
        (["--host", "0.0.0.0"], 2, "make one with alpage keys create NAME"),
    ],
)
def test_what_cannot_be_served(
    alpage_home: Path, arguments: list[str], code: int, message: str
) -> None:
    found, errors = fails(alpage_home, "--port", "0", *arguments)
    assert found == code
    assert message in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": "8 sheep"}, "a size is written as 8GB, 512MiB or in bytes"),
        ({"keep_alive": "soon"}, "a time is written as 30s, 10m, 1.5h"),
        ({"adapter": ["legal"]}, "--adapter is NAME=FOLDER or NAME=FOLDER@BASE"),
        ({"adapter": ["legal=/no/such/folder"]}, "the adapter legal is no folder"),
        ({"origin": ["*"]}, "an origin is written as https://app.example"),
        ({"allowed_host": ["a:1"]}, "an allowed host is a name or address without a port"),
        ({"tls_key": Path("x")}, "TLS needs both, a certificate and its key"),
        ({"queue": 0}, "a queue holds at least one request"),
        ({"stall": "0"}, "stall must be above 0 seconds"),
        ({"config": Path("/no/such.toml")}, "cannot read the configuration /no/such.toml"),
    ],
)
def test_options_that_are_wrong(
    smollm2_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        command([str(smollm2_path)], port=0, **arguments)


def test_a_model_too_large_for_its_memory(smollm2_path: Path) -> None:
    with pytest.raises(CapacityError, match=r"the model needs 96\.6 MB for its weights"):
        command([str(smollm2_path)], port=0, memory="1MB")


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
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        check_exposed(host, has_keys=False)
        assert warning(host, encrypted=False) is None
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        check_exposed(host, has_keys=True)
        with pytest.raises(UsageError, match=f"others can reach {host}, and this server has no"):
            check_exposed(host, has_keys=False)
        assert warning(host, encrypted=True) is None
        assert f"from {host} unencrypted, keys too" in str(warning(host, encrypted=False))
