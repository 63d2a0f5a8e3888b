"""What every request has to pass before a route sees it.

A web page that a person visits can make their browser send requests to a server on the same
machine. It must not drive this one: a foreign Host (DNS rebinding) or Origin is refused, a body
has to be JSON by its content type (which browsers ask about first), and no answer carries CORS
headers. Bodies have a limit in size and time.
"""

import asyncio
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alpage.server.dialects import error_response
from alpage.server.errors import RequestError

MAX_BODY = 16 << 20
_DISCARDED = 4 * MAX_BODY
_BODY_SECONDS = 60


class Guard:
    """ASGI middleware around all routes.

    `local`: the Host header has to name the loopback interface.
    """

    def __init__(self, app: ASGIApp, local: bool) -> None:
        self._app = app
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check(scope["method"], headers)
        except RequestError as error:
            await error_response(error, scope["path"], headers)(scope, receive, hardened)
        else:
            await self._app(scope, receive, hardened)

    def _check(self, method: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._local and not _names_loopback(host):
            raise RequestError(
                f"this server does not answer for the host {host!r:.80}; it listens on this "
                "machine only, as localhost",
                status=403,
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise RequestError(
                f"requests from pages of {origin!r:.80} are not allowed",
                status=403,
                code="origin_not_allowed",
            )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and kind != "application/json":
            raise RequestError(
                f"the content type must be application/json, not {kind!r:.80}",
                status=415,
                code="unsupported_media_type",
            )


def _names_loopback(value: str) -> bool:
    try:
        name = urlsplit(f"//{value}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`: localhost, 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def read_body(request: Request) -> bytes:
    """The whole body; a RequestError for one that is too large or does not come."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= MAX_BODY:
                    parts.append(part)
                    continue
                parts.clear()
                if size > _DISCARDED:
                    break
                # Read on: a client that is still writing would never see the answer.
    except TimeoutError:
        raise RequestError(
            f"the body did not arrive within {_BODY_SECONDS} seconds", status=408, code="timeout"
        ) from None
    if size > MAX_BODY:
        raise RequestError(
            f"the body is larger than {MAX_BODY >> 20} MiB, the most that this server reads",
            status=413,
            code="body_too_large",
        )
    return b"".join(parts)
