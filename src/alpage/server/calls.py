"""The middleware that makes a `Call` of each request, and ends it after its last byte."""

import re
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alpage.core.errors import AlpageError
from alpage.server.call import Call
from alpage.server.dialects import dialect_of, error_response
from alpage.server.observe.observer import Observers
from alpage.server.pool import Pool

_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
CLIENT_GONE = 499
"""The status, nginx's, that logs show where nobody was left to be answered."""


class Door(Protocol):
    """Lets calls in: who asks, and what they may."""

    async def enter(self, call: Call, path: str, headers: Headers) -> None:
        """Set the call's caller and account, or raise why it is refused."""
        ...

    def leave(self, call: Call) -> None:
        """The call that entered has ended."""
        ...


class OpenDoor:
    """Everyone may come in; nothing is counted."""

    async def enter(self, call: Call, path: str, headers: Headers) -> None:
        """Nothing is asked."""

    def leave(self, call: Call) -> None:
        """Nothing is noted."""


class Calls:
    """ASGI middleware around all routes.

    `timeout`: seconds after which any answer ends. `keeps_text`: prompts and answers may be logged.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        pool: Pool,
        observers: Observers,
        door: Door,
        timeout: float | None = None,
        keeps_text: bool = False,
    ) -> None:
        self._app = app
        self._pool = pool
        self._observers = observers
        self._door = door
        self._timeout = timeout
        self._keeps_text = keeps_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], Headers(scope=scope)
        dialect = dialect_of(path, headers)
        call = self._call(dialect.name, scope["method"], headers)
        scope.setdefault("state", {})["call"] = call
        self._observers.began(call)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", call.id.encode()),
                ]
                if dialect.tells_id:
                    message["headers"].append((b"request-id", call.id.encode()))
            await send(message)

        entered = False
        try:
            await self._door.enter(call, path, headers)
            entered = True
            await self._app(scope, receive, noted)
        except AlpageError as error:
            if entered or call.status:
                raise
            call.told(error)
            await error_response(error, path, headers, call.id)(scope, receive, noted)
        finally:
            self._end(call, scope, entered)

    def _call(self, dialect: str, method: str, headers: Headers) -> Call:
        parent = headers.get("traceparent", "")
        return Call(
            self._pool,
            self._observers,
            dialect=dialect,
            method=method,
            trace_parent=parent if _TRACE_PARENT.fullmatch(parent) else None,
            timeout=self._timeout,
            keeps_text=self._keeps_text,
        )

    def _end(self, call: Call, scope: Scope, entered: bool) -> None:
        call.status = call.status or CLIENT_GONE
        route = scope.get("route")
        if route is not None:
            call.endpoint = route.path
        call.release()
        if entered:
            self._door.leave(call)
        self._observers.ended(call)
