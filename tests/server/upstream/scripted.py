"""A server that answers as a test says, byte by byte, and remembers what it was asked."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Step = Callable[[socket.socket], None]


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Scripted:
    """`steps` answer one request each, in order; the last one all that follow."""

    url: str = ""
    steps: list[Step] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when somebody has closed a connection that `until_left` held open."""

    def until_left(self, *parts: bytes) -> Step:
        def step(sock: socket.socket) -> None:
            for part in parts:
                sock.sendall(part)
            sock.settimeout(60)
            while sock.recv(1 << 16):
                pass
            self.left.set()

        return step


def head(status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, "connection: close", "", ""]
    return "\r\n".join(lines).encode()


def says(*parts: bytes) -> Step:
    def step(sock: socket.socket) -> None:
        for part in parts:
            sock.sendall(part)

    return step


def events(*values: dict[str, Any], done: bool = True) -> bytes:
    made = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)
    return made + (b"data: [DONE]\n\n" if done else b"")


def delta(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    content = {} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": content | more, "finish_reason": finish}]}


def refusal(status: str, error: Any, *headers: str) -> Step:
    return says(
        head(status, "content-type: application/json", *headers), json.dumps(error).encode()
    )


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
GOOD = says(head(), events(delta("Hel"), delta("lo"), delta(finish="stop"), USAGE))


@contextmanager
def scripted(*steps: Step) -> Iterator[Scripted]:
    server = Scripted(steps=list(steps))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        ending = threading.Event()

        def accept() -> None:
            while not ending.is_set():
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(server, sock), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            ending.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def answer(server: Scripted, sock: socket.socket) -> None:
    with sock:
        data = b""
        while b"\r\n\r\n" not in data:
            part = sock.recv(1 << 16)
            if not part:
                return
            data += part
        top, _, body = data.partition(b"\r\n\r\n")
        first, *lines = top.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(re.sub(r"\D", "", headers.get("content-length", "0")))
        while len(body) < length:
            body += sock.recv(1 << 16)
        server.asked.append(Asked(first.split()[1], headers, json.loads(body)))
        step = server.steps.pop(0) if len(server.steps) > 1 else server.steps[0]
        try:
            step(sock)
        except OSError:
            server.left.set()
