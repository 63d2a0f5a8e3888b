"""A server in this process: its socket, its signals, its end."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator, Mapping

import uvicorn

from alpage.core.errors import ResourceError, UsageError
from alpage.llama import Llama
from alpage.server.app import Surroundings, create_app
from alpage.server.guard import is_loopback
from alpage.server.pool import Pool

GRACE_SECONDS = 5.0
"""How long answers under way may go on when the server ends."""

_LAST_WORDS_SECONDS = 3


def open_socket(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port` (0: any free one), not listening yet."""
    if not 0 <= port <= 65535:
        raise UsageError(f"the port must be between 0 and 65535, not {port}")
    try:
        if not host:  # which would mean every address
            raise OSError("it is empty")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{host!r} is no address of this machine: {error}") from error
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ResourceError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port"
        ) from error
    return sock


def url_of(sock: socket.socket, host: str) -> str:
    """Where clients find the server."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{sock.getsockname()[1]}"


def serve(
    models: Mapping[str, Llama], sock: socket.socket, *, host: str, on_start: Callable[[], None]
) -> None:
    """Answer until SIGINT or SIGTERM (which reach the main thread only).

    `on_start` is called once requests are answered. Ends when the answers under way are finished,
    or cut off after a few seconds. Closes neither the models nor the socket.
    """
    around = Surroundings(pool=Pool.of(models), local=is_loopback(host))
    Server(around, on_start=on_start).run(sockets=[sock])


class Server(uvicorn.Server):
    """uvicorn, silent but for what goes wrong, which says when it listens."""

    def __init__(self, around: Surroundings, *, on_start: Callable[[], None]) -> None:
        self._pool = around.pool
        self._on_start = on_start
        config = uvicorn.Config(
            create_app(around),
            http="h11",
            loop="asyncio",
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(GRACE_SECONDS) + _LAST_WORDS_SECONDS,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers finish for a while, then end them so that each client is told."""
        ending = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._pool.end_running)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """End on a signal, and leave it at that: uvicorn would raise it again afterwards."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def warning(host: str) -> str | None:
    """What to know before others can reach the server; None where only this machine can."""
    if is_loopback(host):
        return None
    return (
        f"Everyone who can reach {host} can use this server: it asks for no key and encrypts "
        "nothing. Keep it inside a network that you trust, or behind a proxy that does both."
    )
