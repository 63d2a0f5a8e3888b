"""The log: a line is a line whatever strangers send, and never stops the server."""

import contextlib
import io
import json
import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.observe.views import Asker, View, watch

from alpage.core.errors import StorageError
from alpage.server.observe import logs
from alpage.server.observe.event import log_event, log_failure
from alpage.server.observe.lines import HumanFormatter, JsonFormatter
from alpage.server.observe.logs import RequestLog, logging_to


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").split("\n")[:-1]]


def test_a_request_is_one_line_with_all_there_is_to_know(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with logging_to(log):
        watch(RequestLog(), View(prompt_text="secret", answer_text="secret"), 0.1, 0.2)
    (line,) = lines(log)
    assert datetime.now(UTC) - datetime.fromisoformat(line.pop("time")) < timedelta(minutes=5)
    assert 0 <= line.pop("seconds") < 300
    assert line == {
        "level": "info",
        "event": "request",
        "id": "req-1",
        "method": "POST",
        "endpoint": "/v1/chat/completions",
        "dialect": "openai",
        "status": 200,
        "model": "smollm2",
        "key": "k_12",
        "caller": "the shop",
        "tenant": "shop",
        "prompt_tokens": 30,
        "cached_tokens": 10,
        "completion_tokens": 5,
        "first_token_seconds": 0.125,
        "finish": ["stop"],
        "error": None,
    }
    assert "secret" not in log.read_text()


def test_prompts_only_where_they_are_asked_for_and_bounded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with logging_to(log):
        watch(
            RequestLog(prompts=True), View(prompt_text="Hi\n\x1b[2Jthere", answer_text="x" * 10**6)
        )
    (line,) = lines(log)
    assert line["prompt"] == "Hi\n\x1b[2Jthere"
    assert line["answer"] == "x" * 50_000 + "... (950000 characters more)"
    assert b"\x1b" not in log.read_bytes()


NASTY = 'a\r\nb\x00\x1b[31m\x7f\x85\u2028\u2029\ud800\U0001f600"\\'


@given(st.text() | st.just(NASTY))
def test_no_text_breaks_a_line(text: str) -> None:
    fields = {"id": text, "model": text, "finish": [text, text], "error": text}
    record = logging.LogRecord("alpage", logging.INFO, "", 0, "request", None, None)
    record.event, record.fields = "event", fields
    line = JsonFormatter().format(record)
    assert line.isascii() and line.isprintable()
    assert {name: json.loads(line)[name] for name in fields} == fields
    human = HumanFormatter().format(record)
    assert human.isprintable()  # so it has no line end either


def test_long_values_are_cut(tmp_path: Path) -> None:
    log = tmp_path / "log"
    huge = View(
        model="m" * 10**6, error="e" * 10**6, finish_reasons=["f" * 10**5] * 1000,
        caller=Asker("k" * 10**5, "n" * 10**5, "t" * 10**5),
    )  # fmt: skip
    with logging_to(log):
        watch(RequestLog(), huge)
        try:
            raise ValueError("v" * 10**6)
        except ValueError:
            log_failure("broken")
    first, second = lines(log)
    assert len(json.dumps(first)) < 100_000
    assert first["model"].startswith("mmm") and len(first["model"]) < 1100
    assert len(second["traceback"]) <= 10_000


def test_errors_are_told_with_their_traceback_and_other_loggers_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = logging.getLogger("uvicorn.error").handlers
    with logging_to(log):
        try:
            raise KeyError("where")
        except KeyError:
            log_failure("load_failed", model="m")
        logging.getLogger("alpage.server").error("%s failed\nbadly", "it")
        logging.getLogger("uvicorn.error").warning("odd")
        logging.getLogger("uvicorn.error").info("not of interest")
        logging.getLogger("alpage").debug("nor this")
        logging.getLogger("alpage").info("%d", "no number")
        watch(RequestLog(), View(status=500, error="a bug"))
    assert logging.getLogger("uvicorn.error").handlers is before
    failed, child, odd, unreadable, request = lines(log)
    assert failed["event"] == "load_failed" and failed["model"] == "m"
    assert "in test_errors_are_told" in failed["traceback"]
    assert child | {"time": ""} == {
        "time": "", "level": "error", "event": "log", "logger": "alpage.server",
        "message": "it failed\nbadly",
    }  # fmt: skip
    assert (odd["logger"], odd["message"], odd["level"]) == ("uvicorn.error", "odd", "warning")
    assert unreadable["event"] == "unreadable_record"
    assert (request["level"], request["error"]) == ("error", "a bug")


def test_a_rotated_file_is_begun_anew(tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    log.write_text('{"event": "earlier"}\n')
    with logging_to(log):
        log_event("one")
        wait_for(lambda: len(lines(log)) == 2)
        log.rename(old)
        log_event("two")
        wait_for(log.exists)
    assert [line["event"] for line in lines(old)] == ["earlier", "one"]
    assert [line["event"] for line in lines(log)] == ["two"]


def test_lines_that_cannot_be_written_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "log"
    away = tmp_path / "away"
    with logging_to(log):
        log_event("one")
        wait_for(lambda: log.exists() and len(lines(log)) == 1)
        folder.rename(away)
        for _ in range(3):
            log_event("lost")
        threading.Event().wait(0.2)
        folder.mkdir()
        log_event("two")
    told = lines(log)
    assert told[-2]["event"] == "two" and told[-1]["event"] == "lost_lines"
    assert told[-1]["lines"] == 3 - (len(told) - 2)


def test_a_reader_who_stands_still_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LAST_WORDS_SECONDS", 0.2)
    reading, writing = os.pipe()
    reader, stream = os.fdopen(reading), os.fdopen(writing, "w")
    with logging_to(stream):
        for _ in range(15_000):  # the pipe holds 64 KiB, the queue 10,000 lines
            log_event("much", text="x" * 500)
    assert json.loads(reader.readline())["event"] == "much"
    reader.close()  # whoever is still writing finds out, and ends
    wait_for(lambda: not any(t.name == "alpage-log" for t in threading.enumerate()))
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_a_file_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"cannot write the log .*nowhere"),
        logging_to(tmp_path / "nowhere" / "log"),
    ):
        pass


def test_people_read_short_lines() -> None:
    stream = io.StringIO()
    with logging_to(stream, human=True):
        watch(RequestLog(), View(), 0.1)
        log_event("model_loaded", model="a b", seconds=1.5)
        watch(
            RequestLog(),
            View(
                status=401,
                model=None,
                prompt_tokens=0,
                completion_tokens=0,
                first_token_seconds=None,
                finish_reasons=(),
                error="no\nkey",
            ),
        )
        try:
            raise ValueError("x\ny\x1b")
        except ValueError:
            log_failure("broken")
    first, second, third, *trace = stream.getvalue().splitlines()
    assert " POST /v1/chat/completions 200 smollm2 30 (10 cached) + 5 tokens 0.0" in first
    assert first.endswith(
        'first 0.125 s id=req-1 key=k_12 caller="the shop" tenant=shop finish=stop'
    )
    assert second.endswith(' model_loaded model="a b" seconds=1.5')
    assert third.endswith(r'error="no\nkey"')
    assert trace[0].endswith("error broken") and "\x1b" not in stream.getvalue()
    assert "ValueError: x" in trace


def test_json_in_a_pipe_lines_on_a_terminal() -> None:
    for terminal in (False, True):
        stream = io.StringIO()
        stream.isatty = lambda answer=terminal: answer  # type: ignore[method-assign, misc]
        with logging_to(stream):
            log_event("server_started")
        assert stream.getvalue().startswith("{") is not terminal


def wait_for(condition: Any) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen")
