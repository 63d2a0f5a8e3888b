"""A server in this process: its socket, its signals, its end, and all that it is made of."""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn

from alpage.core.errors import ResourceError, UsageError
from alpage.server.app import Surroundings, create_app
from alpage.server.calls import Door, OpenDoor
from alpage.server.config import Config, ServerConfig
from alpage.server.connection import Connection, with_raw_body
from alpage.server.guard import Access, is_loopback
from alpage.server.observe.metrics import Metrics
from alpage.server.observe.observer import Observers
from alpage.server.openai.storage import ResponseStore
from alpage.server.pool import Pool

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


def url_of(sock: socket.socket, host: str, *, encrypted: bool = False) -> str:
    """Where clients find the server."""
    name = f"[{host}]" if ":" in host else host
    return f"http{'s' if encrypted else ''}://{name}:{sock.getsockname()[1]}"


def surroundings_of(
    config: Config,
    pool: Pool,
    *,
    door: Door | None = None,
    observers: Observers | None = None,
    metrics: Metrics | None = None,
) -> Surroundings:
    """What a server is made of: the one place where its parts come together.

    Without a `door` everyone may come in, so `check_exposed` has to allow that. UsageError for a
    certificate, a host or an origin that cannot be used.
    """
    server = config.server
    local = is_loopback(server.host)
    Access.of(local=local, origins=server.origins, hosts=server.allowed_hosts)  # checks them now
    return Surroundings(
        pool=pool,
        local=local,
        hosts=server.allowed_hosts,
        origins=server.origins,
        door=door or OpenDoor(),
        observers=observers or Observers(),
        metrics=metrics,
        timeout=server.timeout,
        log_prompts=server.log_prompts,
        grace=server.grace,
        stall=server.stall,
        certificate=_certificate(server.tls_certificate, server.tls_key),
        responses=_store(server),
    )


def _store(server: ServerConfig) -> ResponseStore | None:
    """Where responses are kept."""
    if not server.keep_responses:
        return None
    return ResponseStore(server.responses_size, server.responses_time)


def check_exposed(host: str, has_keys: bool) -> None:
    """Refuse an address that others can reach while nobody has to show a key."""
    if not has_keys and not is_loopback(host):
        raise UsageError(
            f"others can reach {host}, and this server has no key that they would have to show: "
            "make one with alpage keys create NAME, or leave --host away so that only this machine "
            "can ask"
        )


def warning(host: str, *, encrypted: bool) -> str | None:
    """What to know before others reach the server; None where there is nothing to know."""
    if encrypted or is_loopback(host):
        return None
    return (
        f"Everything goes to and from {host} unencrypted, keys too. Give --tls-certificate and "
        "--tls-key, or stay inside a network that you trust or behind a proxy that encrypts."
    )


def _certificate(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if certificate is None or key is None:
        if certificate is not key:
            raise UsageError("TLS needs both, a certificate and its key, each in a file")
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise UsageError(
            f"{certificate} and {key} are no certificate and key in PEM that belong together: "
            f"{error}"
        ) from None
    return certificate, key


def serve(around: Surroundings, sock: socket.socket, *, on_start: Callable[[], None]) -> None:
    """Answer until SIGINT or SIGTERM (which reach the main thread only).

    `on_start` is called once requests are answered. Ends when the answers under way are finished
    or their time is over, or at once with a second signal. Closes neither the pool nor the socket.
    """
    Server(around, on_start=on_start).run(sockets=[sock])


class Server(uvicorn.Server):
    """uvicorn, silent but for what goes wrong, which says when it listens."""

    def __init__(self, around: Surroundings, *, on_start: Callable[[], None]) -> None:
        self._around = around
        self._on_start = on_start
        certificate, key = around.certificate or (None, None)
        connection = functools.partial(Connection, stall=around.stall)
        config = uvicorn.Config(
            with_raw_body(create_app(around)),
            http=cast(Any, connection),
            loop="asyncio",
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            timeout_graceful_shutdown=_LAST_WORDS_SECONDS,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        self._around.pool.start()
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers finish for a while, then end them so that each client is told.

        Until then whoever asks anew is answered with status 503.
        """
        life, pool = self._around.life, self._around.pool
        life.draining = True
        end = asyncio.get_running_loop().time() + self._around.grace
        while life.under_way and not self.force_exit:
            if asyncio.get_running_loop().time() >= end:
                break
            await asyncio.sleep(0.02)
        pool.end_running()
        if self.force_exit:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        try:
            await super().shutdown(sockets)
        finally:
            await pool.stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in order at the first signal, at once at the second."""
        super().handle_exit(sig, frame)
        self.force_exit = len(self._captured_signals) > 1

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """End on a signal, and leave it at that: uvicorn would raise it again afterwards."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()
