"""Events of the server's life, for its log."""

import logging

LOGGER = logging.getLogger("alpage")

Value = str | int | float | bool | list[str] | None


def log_event(event: str, level: int = logging.INFO, **fields: Value) -> None:
    """Log that something happened: `event` is one word, `fields` are what there is to say."""
    LOGGER.log(level, event, extra={"event": event, "fields": fields})


def log_failure(event: str, **fields: Value) -> None:
    """The same for the exception that is being handled, with its traceback."""
    LOGGER.error(event, extra={"event": event, "fields": fields}, exc_info=True)
