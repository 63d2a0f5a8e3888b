"""A real server in a thread, on a free port."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from alpage.server.app import Surroundings
from alpage.server.process import Server, open_socket, url_of


@dataclass(frozen=True)
class Serving:
    """Where it listens, and the server itself, which ends by `server.should_exit = True`."""

    url: str
    server: Server


@contextmanager
def serving(around: Surroundings, host: str = "127.0.0.1") -> Iterator[Serving]:
    """Run a server until the context is left."""
    started = threading.Event()
    with open_socket(host, 0) as sock:
        server = Server(around, on_start=started.set)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            assert started.wait(60)
            yield Serving(url_of(sock, host), server)
        finally:
            server.should_exit = True
            thread.join(60)
        assert not thread.is_alive()
