"""Server-sent events: an answer that is written while it is made."""

import contextlib
import functools
import json
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from alpage.core.errors import AlpageError, InternalError
from alpage.server.call import Call
from alpage.server.connection import RawBody
from alpage.server.running import ClientGoneError, while_connected

_LOG = logging.getLogger(__name__)

Failed = Callable[[AlpageError], bytes]
"""How a dialect ends a stream that fails in the middle."""


compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""A value as JSON without spaces."""


def event(value: Any, name: str | None = None) -> bytes:
    """One event with a JSON document, under a name where the dialect has names."""
    begin = "" if name is None else f"event: {name}\n"
    return f"{begin}data: {compact(value)}\n\n".encode()


def line(value: Any) -> bytes:
    """A JSON document as one line, for streams of media type application/x-ndjson."""
    return f"{compact(value)}\n".encode()


class EventStream(Response):
    """Writes the events, ready-made bytes, as they come, and closes them when the client leaves.

    Nothing is sent before the first event exists, so that what fails until then still has its own
    HTTP status; a later failure is told in an event of its own.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        failed: Failed,
        *,
        call: Call,
        media_type: str = "text/event-stream",
    ) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._events = events
        self._failed = failed
        self._call = call
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, as ASGI has it."""
        try:
            await while_connected(receive, self._write(send, RawBody.of(scope)))
        except ClientGoneError:
            if not self._begun:
                raise
            # Nobody is left to be told, and half an answer cannot become an error.

    async def _write(self, send: Send, raw: RawBody | None) -> None:
        async with contextlib.aclosing(self._events):
            first = await anext(self._events)
            self._begun = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            write = functools.partial(_send_body, send) if raw is None else raw.write
            await write(first)
            try:
                async for data in self._events:
                    await write(data)
            except AlpageError as error:
                self._call.told(error)
                await write(self._failed(error))
            except Exception as error:
                self._call.told(error)
                _LOG.exception("an answer failed while it was streamed")
                bug = InternalError("the server failed in the middle of this answer")
                await write(self._failed(bug))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_body(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
