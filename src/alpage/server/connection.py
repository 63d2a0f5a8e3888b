"""A client's connection: uvicorn's, with an end to waiting and a short way for streams."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

_HEADER_SECONDS = 60.0
_RAW_BODY = "alpage.raw_body"


class RawBody:
    """Writes pieces of a body in chunked coding (RFC 9112, section 7.1) to the connection itself.

    The ordinary way, through every middleware and h11, takes 8 us a piece beside the 20 that the
    system needs to send it. Nothing there changes a body, and h11 keeps nothing of chunks. For
    bodies that have begun; their end goes the ordinary way.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @staticmethod
    def of(scope: Scope) -> "RawBody | None":
        """That of a request, where its answer, of unknown length, is chunked."""
        raw = scope.get("extensions", {}).get(_RAW_BODY)
        assert raw is None or isinstance(raw, RawBody)
        return None if scope["http_version"] == "1.0" or scope["method"] == "HEAD" else raw

    async def write(self, data: bytes) -> None:
        """Write `data`, not empty, when the client has read enough; nothing once it has gone."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if not cycle.disconnected:
            cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


def with_raw_body(app: ASGIApp) -> ASGIApp:
    """The same app, which finds a `RawBody` in the scope of a request that came over HTTP."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            scope.setdefault("extensions", {})[_RAW_BODY] = RawBody(cycle)
        await app(scope, receive, send)

    return wrapped


class Connection(H11Protocol):
    """A client's connection, which is cut off where the client does not do its part.

    `stall`: seconds in which it may read nothing while the buffer for it is full. Whoever sends no
    request is not waited for either. A connection that is cut off ends its answer like one that
    the client has closed.
    """

    def __init__(self, *arguments: Any, stall: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stall = stall
        self._watch: asyncio.TimerHandle | None = None
        self._request: asyncio.TimerHandle | None = None

    @property
    def _expects(self) -> bool:
        """Whether a request should come now: none is under way."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, for a while."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request that has begun to come, for a while."""
        super().data_received(data)
        if not self._expects and self._request is not None:
            self._request.cancel()
            self._request = None
        elif self._expects and self._request is None:
            self._expect()

    def _expect(self) -> None:
        self._request = self.loop.call_later(_HEADER_SECONDS, self._check_begun)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        for timer in (self._watch, self._request):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The buffer is full: watch whether the client reads."""
        super().pause_writing()
        self._look(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has read enough."""
        super().resume_writing()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self, unread: int) -> None:
        self._watch = self.loop.call_later(self._stall, self._check_read, unread)

    def _check_read(self, before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread < before:
            self._look(unread)
        else:
            self.transport.abort()

    def _check_begun(self) -> None:
        self._request = None
        if self._expects:
            self.transport.abort()
