"""Lines of the log: a record as JSON, or as a person reads it."""

import json
import logging
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_MOST_TEXT = 1000  # characters of a field
_MOST = {"prompt": 50_000, "answer": 50_000}
_MOST_ITEMS = 64
_MOST_TRACEBACK = 10_000


class JsonFormatter(logging.Formatter):
    """One object a line, in ASCII: whatever a text holds, it cannot end the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time in UTC by RFC 3339, level, event, and the event's fields."""
        facts = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": event_of(record),
        } | fields_of(record)
        # JSON may leave DEL as it is; some terminals act on it.
        return json.dumps(facts, allow_nan=False).replace("\x7f", "\\u007f")


class HumanFormatter(logging.Formatter):
    """One line for people, and a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Local time of day, what happened, and the fields that say something."""
        fields = fields_of(record)
        trace = fields.pop("traceback", None)
        known = _request(fields) if event_of(record) == "request" else event_of(record)
        rest = [f"{name}={_shown(value)}" for name, value in fields.items() if _says(value)]
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()} "
        time = _time(record).astimezone().strftime("%H:%M:%S")
        line = _printable(" ".join([time, level + known, *rest]), "")
        return line if trace is None else f"{line}\n{_printable(str(trace), chr(10))}"


def event_of(record: logging.LogRecord) -> str:
    """The event's word; "log" for records that other libraries write."""
    return str(getattr(record, "event", "log"))


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Every field, cut to its length."""
    given: Mapping[str, Any] = getattr(record, "fields", {})
    fields = {name: _cut(name, value) for name, value in given.items()}
    if not hasattr(record, "event"):
        fields |= {"logger": record.name, "message": _cut("message", record.getMessage())}
    if record.exc_info and record.exc_info[1] is not None:
        text = "".join(traceback.format_exception(record.exc_info[1]))
        fields["traceback"] = text[-_MOST_TRACEBACK:]  # the end tells what happened
    return fields


def _cut(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_cut(name, item) for item in value[:_MOST_ITEMS]]
    if not isinstance(value, str):
        return value
    most = _MOST.get(name, _MOST_TEXT)
    if len(value) <= most:
        return value
    return f"{value[:most]}... ({len(value) - most} characters more)"


def _request(fields: dict[str, Any]) -> str:
    """What a person wants to know of a request first; the rest stays in `fields`."""
    get = fields.pop
    method, endpoint, status = get("method"), get("endpoint"), get("status")
    words = [f"{method} {endpoint} {status}"]
    if model := get("model"):
        words.append(str(model))
    prompt, cached, completion = (
        get(f"{kind}_tokens") for kind in ("prompt", "cached", "completion")
    )
    if prompt or completion:
        words.append(f"{prompt} ({cached} cached) + {completion} tokens")
    first, seconds = get("first_token_seconds"), get("seconds")
    words.append(f"{seconds:.3f} s" + (f", first {first:.3f} s" if first is not None else ""))
    get("dialect")
    return " ".join(words)


def _says(value: Any) -> bool:
    return value not in (None, "", [])


def _shown(value: Any) -> str:
    """As it is where it is one plain word, else as JSON writes it."""
    if isinstance(value, list):
        return ",".join(_shown(item) for item in value)
    text = str(value)
    return text if text.isprintable() and not set(text) & set(' "=,') else json.dumps(text)


def _printable(text: str, kept: str) -> str:
    return "".join(c if c.isprintable() or c in kept else "\ufffd" for c in text)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)
