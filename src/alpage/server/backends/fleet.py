"""Other servers that give the same model: which one is asked, how often, and for how long.

Nothing that they send is trusted: sizes and times are bounded, redirects are not followed, and
what they say about an error is passed on only where it is about the request.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from alpage.core.errors import UsageError
from alpage.server.backends.breaker import Breaker
from alpage.server.errors import RequestError

_MOST_ERROR = 1 << 16
_MOST_MESSAGE = 1000
_RETRIED = frozenset({429, 502, 503, 504})
_OURS = frozenset({401, 402, 403, 404, 407})
"""What is wrong between that server and this one: nothing that a client could change."""
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 10.0
_KEEP_ALIVE = 2.0  # below what servers keep, so that no request meets a connection that just ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a model is, and how its servers are treated.

    `urls` end where "/chat/completions" would follow. `key` goes to them as a bearer token.
    Seconds: `connect` for a connection, `first_byte` from the request to the answer's first event,
    `idle` between two of them. `attempts` in all; after `failures` in a row a server is left alone
    for `rest` seconds. `most_bytes` of one answer are read, `most_line` of them in one line.
    """

    name: str
    urls: tuple[str, ...]
    key: str | None = field(default=None, repr=False)
    connect: float = 5.0
    first_byte: float = 300.0
    idle: float = 60.0
    attempts: int = 3
    failures: int = 5
    rest: float = 10.0
    most_bytes: int = 64 << 20
    most_line: int = 16 << 20
    authorities: Path | None = None

    def __post_init__(self) -> None:
        if not self.urls:
            raise UsageError(f"the upstream {self.name} has no url: give one or several")
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
                raise UsageError(
                    f"an upstream's url is http(s)://HOST[:PORT][/PATH], without a password, "
                    f"not {url!r:.200}"
                )
        if min(self.connect, self.first_byte, self.idle, self.rest) <= 0:
            raise UsageError(f"the times of the upstream {self.name} must be above 0 seconds")
        if min(self.attempts, self.failures, self.most_bytes, self.most_line) < 1:
            raise UsageError(f"attempts, failures and sizes of {self.name} must be at least 1")
        if self.attempts > 20:
            raise UsageError(f"attempts of {self.name} must be at most 20, not {self.attempts}")


class UpstreamError(RequestError):
    """A server that was asked has failed: its fault, not the client's."""

    def __init__(self, name: str, message: str, status: int = 502) -> None:
        super().__init__(f"the upstream {name} {message}", status=status, code="upstream_error")


class Endpoint:
    """One server of a fleet. `active`: requests under way."""

    def __init__(self, url: str, breaker: Breaker) -> None:
        self.url = url.rstrip("/")
        self.breaker = breaker
        self.active = 0


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt gave nothing; `retry`: whether another one may follow, after `pause`."""

    error: RequestError
    retry: bool = False
    pause: float | None = None


class Fleet:
    """The servers of one model, asked in turn, the least busy first."""

    def __init__(self, endpoints: Endpoints, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = endpoints
        self.endpoints = [
            Endpoint(url, Breaker(endpoints.failures, endpoints.rest, clock))
            for url in endpoints.urls
        ]
        self._turn = itertools.count()
        self._client: httpx.AsyncClient | None = None

    @contextlib.asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator["Reply"]:
        """The answer of one of the servers, whose status is 200; a RequestError for any other.

        An UpstreamError raised inside counts against that server; leaving early does not.
        """
        endpoint, response = await self._answered(path, body)
        ended = False
        try:
            reply = Reply(self.options, response)
            yield reply
            ended = reply.ended
        except UpstreamError:
            endpoint.breaker.failed()
            raise
        except BaseException:
            endpoint.breaker.left()
            raise
        else:
            endpoint.breaker.succeeded() if ended else endpoint.breaker.left()
        finally:
            endpoint.active -= 1
            await response.aclose()

    async def _answered(self, path: str, body: bytes) -> tuple[Endpoint, httpx.Response]:
        tried: list[Endpoint] = []
        for attempt in itertools.count(1):
            endpoint = self._choose(tried)
            found = await self._attempt(endpoint, path, body)
            if isinstance(found, httpx.Response):
                return endpoint, found
            tried.append(endpoint)
            pause = self._pause(attempt, found, tried)
            if not found.retry or attempt == self.options.attempts or pause > _LONGEST_PAUSE:
                raise found.error
            await self._rest(pause)
        raise AssertionError("unreachable: attempts are counted")

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _choose(self, tried: Sequence[Endpoint]) -> Endpoint:
        """The least busy of those that may be asked; one that has not failed yet goes first."""
        first = next(self._turn)
        count = len(self.endpoints)
        turns = [self.endpoints[(first + i) % count] for i in range(count)]
        for endpoint in sorted(turns, key=lambda e: (e in tried, e.active)):
            if endpoint.breaker.enter():
                return endpoint
        raise RequestError(
            f"the upstream {self.options.name} has failed several times and is left alone for a "
            "while; ask again later",
            status=503,
            code="upstream_unavailable",
            retry_after=min(endpoint.breaker.wait for endpoint in self.endpoints),
        )

    def _pause(self, attempt: int, failure: _Failure, tried: Sequence[Endpoint]) -> float:
        """Nothing before a server that has not been asked; else longer each time, by chance."""
        if any(e not in tried and e.breaker.state != "open" for e in self.endpoints):
            return 0.0
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (attempt - 1))
        return max(failure.pause or 0.0, longest * random.uniform(0.5, 1.0))

    async def _attempt(
        self, endpoint: Endpoint, path: str, body: bytes
    ) -> httpx.Response | _Failure:
        endpoint.active += 1
        response: httpx.Response | None = None
        found: httpx.Response | _Failure | None = None
        try:
            async with asyncio.timeout(self.options.first_byte):
                response = await self._send(endpoint, path, body)
                found = response
                if response.status_code != 200:
                    found = await self._failure(endpoint, response)
        except TimeoutError:
            endpoint.breaker.failed()
            found = _Failure(self._fault("has not answered in time", 504))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            endpoint.breaker.failed()
            found = _Failure(self._fault("cannot be reached"), retry=True)
        except (httpx.HTTPError, httpx.StreamError):
            endpoint.breaker.failed()
            found = _Failure(self._fault("broke the connection off before it answered"))
        finally:
            if found is None:  # whoever asked has left
                endpoint.breaker.left()
            if found is not response or found is None:
                endpoint.active -= 1
                if response is not None:
                    await response.aclose()
        return found

    async def _send(self, endpoint: Endpoint, path: str, body: bytes) -> httpx.Response:
        if self._client is None:
            self._client = self._connected()
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self.options.key is not None:
            headers["authorization"] = f"Bearer {self.options.key}"
        request = self._client.build_request(
            "POST", endpoint.url + path, content=body, headers=headers
        )
        return await self._client.send(request, stream=True, follow_redirects=False)

    def _connected(self) -> httpx.AsyncClient:
        import ssl  # where somebody is asked

        verify: ssl.SSLContext | bool = True
        if self.options.authorities is not None:
            verify = ssl.create_default_context(cafile=str(self.options.authorities))
        timeout = httpx.Timeout(None, connect=self.options.connect, write=60.0, pool=60.0)
        limits = httpx.Limits(max_connections=1024, keepalive_expiry=_KEEP_ALIVE)
        # Neither proxies nor passwords of the environment: only what the configuration says.
        return httpx.AsyncClient(trust_env=False, timeout=timeout, limits=limits, verify=verify)

    async def _failure(self, endpoint: Endpoint, response: httpx.Response) -> _Failure:
        """What an answer with another status than 200 means for whoever asked."""
        status = response.status_code
        if 300 <= status < 400 or status < 200:
            endpoint.breaker.failed()
            return _Failure(self._fault(f"answered with a redirect ({status}): not followed"))
        if status >= 500:
            endpoint.breaker.failed()
            fault = self._fault(f"failed with status {status}", 502)
            return _Failure(fault, status in _RETRIED, _retry_after(response))
        endpoint.breaker.left() if status == 429 else endpoint.breaker.succeeded()
        if status in _OURS or status < 300:
            return _Failure(self._fault(f"refused this server with status {status}"))
        message, param, code = self._explained(await _beginning(response))
        error = RequestError(
            f"{self.options.name}: {message or f'refused with status {status}'}",
            status=status if status in (400, 408, 413, 422, 429) else 400,
            param=param,
            code=code,
            retry_after=_retry_after(response),
        )
        return _Failure(error, status == 429, error.retry_after)

    def _explained(self, body: bytes) -> tuple[str | None, str | None, str | None]:
        """Message, parameter and code of an error as most servers write it."""
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return None, None, None
        error = found.get("error", found) if isinstance(found, dict) else None
        if isinstance(error, str):
            return self.safe(error), None, None
        if not isinstance(error, dict):
            return None, None, None
        words = [error.get(name) for name in ("message", "param", "code")]
        message, param, code = [self.safe(w) if isinstance(w, str) else None for w in words]
        return message, param, code

    def safe(self, text: str) -> str:
        """What a server says, short and without the key that it was shown."""
        if self.options.key:
            text = text.replace(self.options.key, "***")
        return text[:_MOST_MESSAGE]

    def _fault(self, what: str, status: int = 502) -> UpstreamError:
        return UpstreamError(self.options.name, what, status)

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class Reply:
    """The body of an answer, read within its bounds. An UpstreamError where it breaks one."""

    def __init__(self, options: Endpoints, response: httpx.Response) -> None:
        self._options = options
        self._response = response
        self._parts = response.aiter_raw()
        self._buffer = bytearray()
        self._searched = 0
        self._read = 0
        self.ended = False
        """Whether all of it has been read."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self.fault("compressed its answer, which it was asked not to do")

    def fault(self, what: str) -> UpstreamError:
        """An error of this server's."""
        return UpstreamError(self._options.name, what)

    async def _more(self) -> bool:
        """Read a part; False at the end."""
        try:
            part = await anext(self._parts, None)
        except (httpx.HTTPError, httpx.StreamError):
            raise self.fault("broke the connection off in the middle of its answer") from None
        if part is None:
            self.ended = True
            return False
        self._read += len(part)
        if self._read > self._options.most_bytes:
            raise self.fault(f"answers with more than {self._options.most_bytes} bytes")
        self._buffer += part
        return True

    async def _line(self) -> bytes | None:
        """The next line, without its end; None after the last one."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if self._searched > self._options.most_line:
                raise self.fault(f"sends a line of more than {self._options.most_line} bytes")
            if not await self._more():
                rest, self._buffer, self._searched = bytes(self._buffer), bytearray(), 0
                return rest or None
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        self._searched = 0
        return line

    async def event(self) -> dict[str, Any] | None:
        """The JSON object of the next server-sent event; None at the end of them.

        Events with names are read by their data, comments and other fields are passed over.
        """
        while (line := await self._line()) is not None:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                self.ended = True
                return None
            return self.object_of(data)
        return None

    async def whole(self) -> dict[str, Any]:
        """All of the body, as one JSON object."""
        try:
            async with asyncio.timeout(self._options.first_byte):
                while await self._more():
                    pass
        except TimeoutError:
            raise UpstreamError(self._options.name, "has not answered in time", 504) from None
        return self.object_of(bytes(self._buffer))

    def object_of(self, data: bytes) -> dict[str, Any]:
        """A JSON object out of its bytes."""
        try:
            found = json.loads(data, parse_constant=_refuse)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.fault("answers with something else than JSON objects")
        return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


async def _beginning(response: httpx.Response) -> bytes:
    """As much of a body as an error may have."""
    found = bytearray()
    async for part in response.aiter_raw():
        found += part
        if len(found) > _MOST_ERROR:
            break
    return bytes(found[:_MOST_ERROR])


def _retry_after(response: httpx.Response) -> float | None:
    """The seconds of a retry-after header; dates, which few send, are passed over."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
