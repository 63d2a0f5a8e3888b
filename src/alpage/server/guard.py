"""What every request has to pass before a route sees it.

A web page that a person visits can make their browser send requests to a server on the same
machine. It must not drive this one: a foreign Host (DNS rebinding) or Origin is refused, a body
has to be JSON by its content type (which browsers ask about first), and only pages of origins that
the operator named get CORS headers. Bodies have a limit in size and time, each and together.
"""

import asyncio
import dataclasses
import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alpage.core.errors import UsageError
from alpage.server.dialects import error_response
from alpage.server.errors import RequestError
from alpage.server.life import Life

MAX_BODY = 16 << 20
_DISCARDED = 4 * MAX_BODY
_BODY_SECONDS = 60
_SMALL_BODY = 1 << 16
_METHODS = "GET, POST, DELETE, OPTIONS"
_EXPOSED = "x-request-id, retry-after"
_PREFLIGHT_SECONDS = 600
_HEADER_NAMES = re.compile(r"[a-zA-Z0-9-]{1,64}(?: *, *[a-zA-Z0-9-]{1,64}){0,63}")
_ORIGIN = re.compile(r"https?://(?:[a-zA-Z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::\d{1,5})?")
_HOST = re.compile(r"[a-zA-Z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]")


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Which hosts a server answers for, and the pages of which origins may ask it.

    `local`: it listens on the loopback interface, and answers for that. `hosts`: other names that
    it answers for; where there are none and it is not local, for any. `origins` as browsers write
    them: https://app.example. A page of the server's own host may always ask.
    """

    local: bool
    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *, local: bool, origins: Sequence[str] = (), hosts: Sequence[str] = ()) -> "Access":
        """The same with its values checked: a UsageError says what is wrong."""
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise UsageError(
                    f"an origin is written as https://app.example or http://localhost:3000, "
                    f"without a path and never as *; not {origin!r:.200}"
                )
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise UsageError(
                    f"an allowed host is a name or address without a port, not {host!r:.200}"
                )
        return cls(
            local,
            frozenset(origin.lower() for origin in origins),
            frozenset(host.strip("[]").lower() for host in hosts),
        )

    def answers_for(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = _name_of(host)
        if name is not None and name in self.hosts:
            return True
        if self.local:
            return name is not None and is_loopback(name)
        return not self.hosts


class Guard:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, access: Access, life: Life) -> None:
        self._app = app
        self._access = access
        self._life = life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        added = self._added(headers)

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                given = {name for name, _ in own}
                message["headers"] = own + [pair for pair in added if pair[0] not in given]
            await send(message)

        try:
            self._check(scope["method"], headers)
            if scope["method"] == "OPTIONS" and headers.get("access-control-request-method"):
                await self._preflight(headers)(scope, receive, hardened)
                return
            if scope["method"] in ("GET", "HEAD"):
                await self._app(scope, receive, hardened)
                return
            self._life.enter()
        except RequestError as error:
            await error_response(error, scope["path"], headers)(scope, receive, hardened)
            return
        body = Body(self._life)
        scope.setdefault("state", {})["body"] = body
        try:
            await self._app(scope, receive, hardened)
        finally:
            self._life.leave(body.size)

    def _added(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Headers of every answer."""
        added = [(b"x-content-type-options", b"nosniff")]
        if self._access.origins:
            added.append((b"vary", b"origin"))
            origin = headers.get("origin", "")
            if origin.lower() in self._access.origins:
                added.append((b"access-control-allow-origin", origin.encode("latin-1")))
                added.append((b"access-control-expose-headers", _EXPOSED.encode()))
        return added

    def _preflight(self, headers: Headers) -> Response:
        """What a browser is told that asks first. Keys go in headers: no credentials of its own."""
        wanted = headers.get("access-control-request-headers", "")
        allowed = {"access-control-allow-methods": _METHODS}
        if _HEADER_NAMES.fullmatch(wanted):
            allowed["access-control-allow-headers"] = wanted
        allowed["access-control-max-age"] = str(_PREFLIGHT_SECONDS)
        return Response(status_code=204, headers=allowed)

    def _check(self, method: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._access.answers_for(host):
            where = (
                "it listens on this machine only, as localhost"
                if self._access.local
                else ("its operator has named those that it answers for")
            )
            raise RequestError(
                f"this server does not answer for the host {host!r:.80}; {where}",
                status=403,
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not self._allows(origin, host):
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

    def _allows(self, origin: str, host: str) -> bool:
        if origin.lower() in self._access.origins:
            return True
        try:
            return urlsplit(origin).netloc == host
        except ValueError:
            return False


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`: localhost, 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Body:
    """What one request's body takes of the memory for all of them; given back at its end."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.size = 0

    def grow(self, size: int) -> None:
        """Take `size` bytes; a RequestError with status 503 where there is no room."""
        self._life.take(size)
        self.size += size


async def read_body(request: Request) -> bytes:
    """The whole body; a RequestError for one that is too large, has no room or does not come."""
    body: Body | None = getattr(request.state, "body", None)
    announced = _announced(request)
    if body is not None and announced > _SMALL_BODY:
        body.grow(announced)  # before any of it is read
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= MAX_BODY:
                    if body is not None and size > body.size:
                        body.grow(size - body.size)
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


def _announced(request: Request) -> int:
    """The bytes that a body is said to have, as far as they would be read."""
    text = request.headers.get("content-length", "")
    return min(int(text), MAX_BODY) if text.isascii() and text.isdigit() else 0
