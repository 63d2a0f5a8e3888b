"""`alpage top` at a real server that a real model answers for."""

import json
import math
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from tests.cli.conftest import PROGRAM, Alpage, environment
from tests.cli.terminal import terminal
from tests.server.observe.views import View, watch

from alpage import Llama, __version__
from alpage.cli.top_numbers import Between, Look, quantile
from alpage.cli.top_text import HEAD, LEGEND, align, model_lines
from alpage.core.errors import FormatError
from alpage.core.settings import Settings
from alpage.server.observe.metrics import Metrics, metrics_routes


@contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[str]:
    """The app at a URL, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def app_of(metrics: Metrics, key: str | None = None) -> FastAPI:
    def check(authorization: str = Header("")) -> None:
        if key is not None and authorization != f"Bearer {key}":
            raise HTTPException(401)

    app = FastAPI()
    app.include_router(metrics_routes(metrics), dependencies=[Depends(check)])
    return app


class Busy:
    """A model that writes, and calls of which the server's observers are told."""

    def __init__(self, llm: Llama) -> None:
        self.metrics = Metrics(lambda: {"smollm2", "remote"}, lambda: {"smollm2": llm.engine.stats})
        self._llm = llm
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self._ended.is_set():
            self._llm.generate(
                "One, two, three, one, two, three, one,", max_tokens=12, temperature=0
            )
            watch(self.metrics, View(), 0.3, 0.022, 0.022)
            watch(self.metrics, View(model="remote", status=502, completion_tokens=7), 0.7)
            time.sleep(0.005)

    def __enter__(self) -> Metrics:
        self._thread.start()
        return self.metrics

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture(scope="module")
def busy(smollm2_path: Path) -> Iterator[Metrics]:
    with Llama.load(smollm2_path, context=256, settings=Settings()) as llm, Busy(llm) as metrics:
        yield metrics


@pytest.fixture(scope="module")
def url(busy: Metrics) -> Iterator[str]:
    with serving(app_of(busy)) as found:
        yield found


def test_once_shows_each_model_in_eighty_columns(alpage: Alpage, url: str) -> None:
    done = alpage("top", url, "--once", "--interval", "0.6")
    assert (done.returncode, done.stderr) == (0, "")
    top, state, totals, head, *rows = done.stdout.splitlines()
    assert top.endswith(f"  {url}")
    assert re.match(rf"version {re.escape(__version__)}  up \d+ min  memory ", state)
    assert re.match(r"requests/s [\d.k]+  errors/s [\d.k]+  refused/s 0  in flight \d", totals)
    assert tuple(head.split()) == HEAD
    assert [row.split()[0] for row in rows] == ["remote", "smollm2", "all"]
    assert max(map(len, [state, totals, head, *rows, *LEGEND])) <= 80
    remote, smollm2 = rows[0].split(), rows[1].split()
    # Times come out of buckets: 0.3 lies between 0.2 and 0.35, 0.022 between 0.02 and 0.03.
    assert remote[5] == "625ms" and remote[9:12] == ["-", "-", "-"]
    assert smollm2[5] == "275ms" and smollm2[6] in ("342ms", "343ms")
    assert smollm2[7] == "25ms" and smollm2[8] in ("29ms", "30ms")
    assert smollm2[9].endswith("%") and smollm2[10].endswith("%") and smollm2[12] == "0"
    assert float(remote[12].rstrip("k")) > 0 and float(smollm2[4].rstrip("k")) > 0


def test_json_has_the_same_numbers(alpage: Alpage, url: str) -> None:
    done = alpage("top", f"{url}/v1/", "--once", "--json", "--interval", "0.6")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["url"] == url and told["version"] == __version__
    assert 0.5 < told["seconds"] < 60
    one = told["models"]["smollm2"]
    assert one["completion_tokens"] > 0 and 0 <= one["cache_hits"] <= 1
    assert one["first_token"]["p50"] == pytest.approx(0.275)
    assert told["models"]["remote"]["errors"] == pytest.approx(told["errors"])
    assert told["models"]["remote"]["completion_tokens"] > 0


def test_a_pipe_gets_block_after_block_until_ctrl_c(url: str, home: Path) -> None:
    for arguments in ((), ("--json",)):
        process = subprocess.Popen(
            [str(PROGRAM), "top", url, "--interval", "0.2", *arguments], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home),
        )  # fmt: skip
        assert process.stdout is not None
        read = [process.stdout.readline() for _ in range(16 if not arguments else 2)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert "\x1b" not in "".join(read)
        if arguments:
            assert [json.loads(line)["url"] for line in read] == [url, url]
        else:
            assert sum(line.startswith("MODEL ") for line in read) == 2


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {}])
def test_a_terminal_shows_a_view_that_changes(url: str, home: Path, env: dict[str, str]) -> None:
    with terminal(
        "top", url, "--interval", "0.2", home=home, env=env | {"COLUMNS": "80"}
    ) as screen:
        for _ in range(3):
            screen.wait("smollm2")
            screen.wait("status 400 and above.")
        screen.interrupt()
        assert screen.exit_code() == 0
    assert "Traceback" not in screen.text
    assert not re.search(r"\x1b\[[0-9;]*[34][0-7]m", screen.text)  # bold and dim say enough


def test_a_dumb_terminal_gets_plain_lines(url: str, home: Path) -> None:
    with terminal("top", url, "--interval", "0.2", home=home, kind="dumb") as screen:
        screen.wait("MODEL ")
        screen.wait("MODEL ")
        screen.interrupt()
        assert screen.exit_code() == 0
    assert "\x1b" not in screen.text


def test_a_server_that_goes_and_comes_back(home: Path) -> None:
    metrics = Metrics(lambda: {"tiny"}, dict)
    watch(metrics, View(model="tiny"), 0.1)
    with serving(app_of(metrics)) as url:
        port = int(url.rpartition(":")[2])
        process = subprocess.Popen(
            [str(PROGRAM), "top", url, "--interval", "0.1"], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home),
        )  # fmt: skip
        assert process.stdout is not None
        until(process.stdout, "tiny ")
    until(process.stdout, f"{url} does not answer: ")
    with serving(app_of(metrics), port):
        until(process.stdout, "tiny ")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0


def until(stream: Any, words: str) -> None:
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"it ended without {words!r}")


def test_a_key_is_asked_for_and_given(alpage: Alpage, busy: Metrics) -> None:
    with serving(app_of(busy, key="sk-1")) as url:
        for wrong in ((), ("--key", "sk-2")):
            done = alpage("top", url, *wrong)
            assert done.returncode == 2
            assert (
                "a key that has the scope metrics: give it with --key, or as ALPAGE_KEY"
                in done.stderr
            )
            assert "sk-2" not in done.stderr
        look = ("top", url, "--once", "--interval", "0.1")
        assert alpage(*look, "--key", "sk-1").returncode == 0
        assert alpage(*look, ALPAGE_KEY="sk-1").returncode == 0
        done = alpage(*look, "--key", "sk\n1")
        assert done.returncode == 2 and "characters that no key has" in done.stderr


def test_what_is_wrong_is_said(alpage: Alpage, busy: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gone = alpage("top", f"http://127.0.0.1:{port}", "--once")
    assert gone.returncode == 1 and f"127.0.0.1:{port} does not answer" in gone.stderr
    for address in ("ftp://x", "http://", "http://h:0", "http://["):
        done = alpage("top", address)
        assert done.returncode == 2 and "is no address of a server" in done.stderr
    done = alpage("top", "http://me:pw@localhost:1")
    assert done.returncode == 2 and "pw" not in done.stderr
    done = alpage("top", "--interval", "0.01")
    assert done.returncode == 2 and "between 0.1 and 3600 seconds, not 0.01" in done.stderr
    other = FastAPI()
    other.get("/metrics")(lambda: "hello")
    with serving(other) as url:
        done = alpage("top", url, "--once")
        assert done.returncode == 1
        assert "alpage: what it answers is not in Prometheus' format" in done.stderr
        done = alpage("top", f"{url}/elsewhere", "--once")
        assert done.returncode == 1
        assert f"there are no metrics at {url}/elsewhere/metrics (status 404)" in done.stderr


def look(at: float, **values: float) -> Look:
    lines = [f"{name} {value}" for name, value in values.items()]
    return Look('alpage_build_info{version="9"} 1\n' + "\n".join(lines) + "\n", at)


def test_a_server_that_began_again_is_counted_from_its_start() -> None:
    before = look(10.0, alpage_requests_total=500, process_cpu_seconds_total=90)
    numbers = Between(before, look(12.0, alpage_requests_total=8)).numbers(0.0)
    assert numbers.requests == 4
    assert numbers.up_seconds is None


@pytest.mark.parametrize("seed", range(20))
def test_quantiles_lie_in_the_bucket_of_the_true_ones(seed: int) -> None:
    chance = random.Random(seed)
    values = sorted(chance.expovariate(2) for _ in range(chance.randint(1, 200)))
    bounds = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, math.inf]
    buckets = [(bound, float(sum(v <= bound for v in values))) for bound in bounds]
    for share in (0.5, 0.95):
        true = values[math.ceil(share * len(values)) - 1]
        found = quantile(buckets, share)
        assert found is not None
        place = next(i for i, bound in enumerate(bounds) if true <= bound)
        low = bounds[place - 1] if place else 0.0
        assert low <= found <= (bounds[place] if place < len(bounds) - 1 else low)
    assert quantile([(bound, 0.0) for bound in bounds], 0.5) is None
    assert quantile([], 0.5) is None


@pytest.mark.parametrize(
    "text",
    ["", "hello", "a{", 'alpage_build_info{version="9"', "a b c d", "\x00", '<html>\n<p a="b">'],
)
def test_other_texts_are_no_metrics(text: str) -> None:
    with pytest.raises(FormatError, match="what it answers"):
        Look(text, 0.0)


def test_hostile_names_and_numbers_are_shown_harmlessly() -> None:
    name = "m\x1b[2J" * 100
    text = (
        'alpage_build_info{version="9"} 1\n'
        f'alpage_engine_up{{model="{name}"}} 1\n'
        f'alpage_engine_requests_running{{model="{name}"}} NaN\n'
        f'alpage_engine_requests_waiting{{model="{name}"}} 1e300\n'
        f'alpage_requests_total{{model="{name}",status="500"}} +Inf\n'
    )
    one = Between(Look(text, 0.0), Look(text, 1.0)).numbers(0.0)
    for line in model_lines(one, 80):
        assert line.isprintable()


def test_the_first_column_gives_way() -> None:
    rows = [("MODEL", "RUN"), ("a-model-with-a-long-name", "12")]
    assert align(rows, 40) == ["MODEL                    RUN", "a-model-with-a-long-name  12"]
    assert align(rows, 16) == ["MODEL        RUN", "a-model-wit~  12"]
    assert align(rows, 1) == ["MODEL    RUN", "a-model~  12"]


def test_the_key_of_the_settings_is_not_shown() -> None:
    settings = Settings.from_environment({"ALPAGE_KEY": "sk-secret"})
    assert settings.key == "sk-secret"
    assert "sk-secret" not in repr(settings)
    assert Settings.from_environment({"ALPAGE_KEY": ""}).key is None
