"""The server's log: one line for each request and event, as JSON or, on a terminal, for people.

What a line says comes partly from strangers: every text in it is escaped, so that it cannot end
the line or command a terminal, and cut to a length. Lines are written by a thread of their own,
so that a full disk or a reader who stands still never stops an answer.
"""

import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import TextIO

from alpage.core.errors import StorageError
from alpage.server.observe.event import LOGGER, Value, log_event
from alpage.server.observe.lines import HumanFormatter, JsonFormatter
from alpage.server.observe.observer import CallView

LOGGERS = ("alpage", "uvicorn.error", "asyncio", "sqlalchemy", "alembic", "opentelemetry")
"""Whose records go to the log; below WARNING only those of the first."""

_MOST_LINES = 10_000  # that may wait for the writer
LAST_WORDS_SECONDS = 2.0
"""How long the end of the log waits for a writer who cannot write."""


class RequestLog:
    """An `Observer` that logs each call as it ends. `prompts`: with what was asked and answered."""

    def __init__(self, *, prompts: bool = False) -> None:
        self._prompts = prompts

    def began(self, call: CallView) -> None:
        """Nothing to say yet."""

    def piece(self, call: CallView, seconds: float, tokens: int, first: bool) -> None:
        """A request is one line, whatever its length."""

    def ended(self, call: CallView) -> None:
        """Its line."""
        fields: dict[str, Value] = {
            "id": call.id,
            "method": call.method,
            "endpoint": call.endpoint,
            "dialect": call.dialect,
            "status": call.status,
            "model": call.model,
            "key": call.caller.key,
            "caller": call.caller.name,
            "tenant": call.caller.tenant,
            "prompt_tokens": call.prompt_tokens,
            "cached_tokens": call.cached_tokens,
            "completion_tokens": call.completion_tokens,
            "first_token_seconds": _rounded(call.first_token_seconds),
            "seconds": _rounded(time.perf_counter() - call.began),
            "finish": list(call.finish_reasons),
            "error": call.error,
        }
        if self._prompts:
            fields |= {"prompt": call.prompt_text, "answer": call.answer_text}
        log_event("request", logging.ERROR if call.status >= 500 else logging.INFO, **fields)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


@contextlib.contextmanager
def logging_to(target: Path | TextIO | None = None, *, human: bool | None = None) -> Iterator[None]:
    """Write the log to a file (appended to, found again after a rotation) or a stream.

    None is standard error. `human` lines instead of JSON where the stream is a terminal, unless
    said otherwise. StorageError for a file that cannot be written. What was set before is back
    afterwards.
    """
    sink = _sink(target)
    if human is None:
        human = not isinstance(target, Path) and (target or sys.stderr).isatty()
    handler = _Handler(sink, HumanFormatter() if human else JsonFormatter())
    before = {}
    for name in LOGGERS:
        logger = logging.getLogger(name)
        before[name] = (logger.handlers, logger.level, logger.propagate)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if logger is LOGGER else logging.WARNING)
    try:
        yield
    finally:
        for name, (handlers, level, propagate) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()


class _Quiet:
    """A handler that remembers a failed write, instead of telling standard error of it."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        self.failed = True


class _Stream(_Quiet, logging.StreamHandler[TextIO]):
    """A stream."""


class _File(_Quiet, WatchedFileHandler):
    """A file that may be moved away and is then begun anew."""


def _sink(target: Path | TextIO | None) -> _Stream | _File:
    if not isinstance(target, Path):
        return _Stream(target or sys.stderr)
    try:
        return _File(target, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise StorageError(f"cannot write the log {target}: {error.strerror}") from error


class _Handler(logging.Handler):
    """Formats in the thread that logs, writes in another. What there is no room for is counted."""

    def __init__(self, sink: _Stream | _File, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._sink = sink
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_LINES)
        self._lost = 0
        self._writer = threading.Thread(target=self._write, name="alpage-log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line."""
        try:
            line = self.format(record)
        except Exception:  # another library's record, whose arguments do not fit its text
            line = self.format(_record("unreadable_record", logger=record.name))
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if not self._put(line):
                self._lost += 1
            elif (lost := self._lost) and self._put(self.format(_record("lost_lines", lines=lost))):
                self._lost -= lost

    def _put(self, line: str) -> bool:
        self._sink.failed = False
        try:
            self._sink.emit(logging.LogRecord("", logging.INFO, "", 0, line, None, None))
        except OSError:  # its folder has gone, for example
            return False
        return not self._sink.failed

    def close(self) -> None:
        """Write what waits, for a while at most."""
        try:
            self._lines.put(None, timeout=LAST_WORDS_SECONDS)
        except queue.Full:  # the end takes the place of a line
            with contextlib.suppress(queue.Empty, queue.Full):
                self._lines.get_nowait()
                self._lines.put_nowait(None)
        self._writer.join(LAST_WORDS_SECONDS)
        if isinstance(self._sink, _File) and not self._writer.is_alive():
            self._sink.close()
        super().close()


def _record(event: str, **fields: Value) -> logging.LogRecord:
    record = logging.LogRecord(LOGGER.name, logging.WARNING, "", 0, event, None, None)
    record.event, record.fields = event, fields
    return record
