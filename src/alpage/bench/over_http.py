"""Alpage's server under a load of requests: another process, asked over HTTP on this machine.

The client reads only what a clock needs, because it takes its time from the same processors as the
server: it counts events, and parses the last one.
"""

import asyncio
import contextlib
import json
import math
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from alpage import __version__
from alpage.bench.latency import Answer
from alpage.bench.serving import SAMPLING, Sampling
from alpage.bench.traffic import TimedRequest
from alpage.core.errors import InternalError, ResourceError

# The script `alpage`, which ends when whoever started it does, however that comes.
_COMMAND_LINE = """
import os, signal, sys, threading
def follow():
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=follow, daemon=True).start()
from alpage.cli import main
sys.exit(main())
"""
_EVENT, _END = b"data: {", b"data: [DONE]"
_TAIL = 4096
"""Bytes of a stream that are kept: the last event tells the tokens, or what went wrong."""
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_SECONDS_TO_END = 20

_Ask = Callable[[bytes, TimedRequest, Answer], Awaitable[None]]
"""Sends the body of a request, and fills in its answer's times."""


class HttpServer:
    """See `alpage.bench.serving.Server`: `alpage serve`, with as many clients as requests."""

    def __init__(self, path: Path, *, threads: int, sampling: Sampling = SAMPLING) -> None:
        self._path = path
        self._threads = threads
        self._sampling = sampling
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ("", 0)
        self._model = ""

    def load(self) -> float:
        """See `Server`; with the smallest cache."""
        start = perf_counter()
        self.prepare(1, 256)
        return perf_counter() - start

    def prepare(self, slots: int, context: int) -> None:
        """See `Server`: a server anew."""
        self.close()
        command = [
            sys.executable, "-P", "-c", _COMMAND_LINE, "serve", str(self._path), "--port", "0",
            "--json", "--threads", str(self._threads), "--context", str(context),
            "--cache-tokens", str(slots * context), "--queue", str(4 * slots),
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ResourceError(f"alpage serve ended with code {self._process.wait()}")
        started = json.loads(line)
        place = urlsplit(started["url"])
        self._address = (str(place.hostname), int(place.port or 0))
        self._model = started["models"][0]

    def serve(self, requests: Sequence[TimedRequest], together: int | None) -> list[Answer]:
        """See `Server`."""
        return asyncio.run(self._serve(requests, together))

    def facts(self) -> Mapping[str, Any]:
        """See `Server`."""
        return {"version": f"alpage serve {__version__}", "build": "HTTP/1.1, server-sent events"}

    def close(self) -> None:
        """End the server."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    async def _serve(self, requests: Sequence[TimedRequest], together: int | None) -> list[Answer]:
        bodies = [self._body(request) for request in requests]
        answers = [Answer(request.at) for request in requests]
        start = perf_counter()
        left = iter(range(len(requests)))

        async def one_after_the_other() -> None:
            async with self._connected(start) as ask:
                for number in left:
                    answers[number].arrived = perf_counter() - start
                    await ask(bodies[number], requests[number], answers[number])

        async def at_its_time(number: int) -> None:
            await asyncio.sleep(max(0.0, requests[number].at - (perf_counter() - start)))
            async with self._connected(start) as ask:
                await ask(bodies[number], requests[number], answers[number])

        async with asyncio.TaskGroup() as group:
            if together is None:
                for number in left:
                    group.create_task(at_its_time(number))
            else:
                for _ in range(min(together, len(requests))):
                    group.create_task(one_after_the_other())
        return answers

    def _body(self, request: TimedRequest) -> bytes:
        sampling = self._sampling
        body = {
            "model": self._model,
            "prompt": request.prompt,
            "max_tokens": request.answer_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "seed": request.seed,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(body).encode()

    @contextlib.asynccontextmanager
    async def _connected(self, start: float) -> AsyncGenerator[_Ask, None]:
        """A connection on which one request follows the other, as clients' pools keep them."""
        host, port = self._address
        transport, client = await asyncio.get_running_loop().create_connection(
            lambda: _Client(start), host, port
        )

        async def ask(body: bytes, request: TimedRequest, answer: Answer) -> None:
            head = (
                f"POST /v1/completions HTTP/1.1\r\nhost: {host}:{port}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            ended = client.begin()
            transport.write(head.encode() + body)
            await ended
            answer.times += client.times(request.answer_tokens)

        try:
            yield ask
        finally:
            transport.close()


class _Client(asyncio.Protocol):
    """Notes when each event of one answer came, and of the next one after that."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._ended: asyncio.Future[None] | None = None
        self._times: list[float] = []
        self._rest = b""  # the beginning of an event, where a segment ended inside of it
        self._tail = b""

    def begin(self) -> "asyncio.Future[None]":
        """Expect an answer; what ends with it, or with the connection."""
        self._times, self._rest, self._tail = [], b"", b""
        self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def data_received(self, data: bytes) -> None:
        """Count the events of a segment: they came now."""
        now = perf_counter() - self._start
        self._tail = (self._tail + data)[-_TAIL:]
        data = self._rest + data
        self._times += [now] * data.count(_EVENT)
        self._rest = data[-(len(_EVENT) - 1) :]
        if self._tail.endswith(_LAST_CHUNK):
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        """An answer that was not whole is found out later."""
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error is not None:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def times(self, expected: int) -> list[float]:
        """When each token came. InternalError where the answer is not whole.

        Tokens are spread over the events evenly: under load some come in one event, and one
        that is not yet text comes with the next. The last event, of usage, is no token.
        """
        if _END not in self._tail:
            said = self._tail[-500:].decode("utf-8", "replace")
            raise InternalError(f"an answer over HTTP is not whole: {said!r}")
        last = self._tail[self._tail.rindex(_EVENT) + len(_EVENT) - 1 : self._tail.rindex(_END)]
        usage = json.loads(last[: last.rindex(b"}") + 1])["usage"]
        if usage["completion_tokens"] != expected:
            raise InternalError(
                f"an answer has {usage['completion_tokens']} tokens instead of {expected}"
            )
        events = self._times[:-1]
        if not events:
            return [math.nan] * expected
        return [events[token * len(events) // expected] for token in range(expected)]
