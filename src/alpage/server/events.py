"""Server-sent events: an answer that is written while it is made."""

import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from alpage.core.errors import AlpageError, InternalError
from alpage.server.running import while_connected

_LOG = logging.getLogger(__name__)

ErrorBody = Callable[[AlpageError], dict[str, Any]]
"""How a dialect writes an error."""


def event(value: Any) -> bytes:
    """One event with a JSON document."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"data: {text}\n\n".encode()


class EventStream(Response):
    """Writes `events` as they come, and closes them when the client leaves.

    Nothing is sent before the first event exists, so that what fails until then still has its own
    HTTP status; a later failure is told in an event of its own.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], error_body: ErrorBody) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, as ASGI has it."""
        await while_connected(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        async with contextlib.aclosing(self._events):
            first = await anext(self._events)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send_body(send, first)
            try:
                async for data in self._events:
                    await _send_body(send, data)
            except AlpageError as error:
                await _send_body(send, event(self._error_body(error)))
            except Exception:
                _LOG.exception("an answer failed while it was streamed")
                bug = InternalError("the server failed in the middle of this answer")
                await _send_body(send, event(self._error_body(bug)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_body(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
