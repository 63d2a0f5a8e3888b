"""A tiny server with the real page and answers written by a test: hostile, slow, broken ones.

A script is a list of steps: bytes and events are sent, `PAUSE` waits for `Scripted.go_on`, `DROP`
breaks the connection without an end. An int as the first step is a status, and the error's message
follows it.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from alpage.server.page import page_routes
from alpage.server.process import open_socket, url_of

PAUSE = object()
DROP = object()
_WAIT_SECONDS = 30


def chunk(text: str) -> dict[str, Any]:
    """An event with a piece of an answer."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def end(reason: str = "stop", **usage: Any) -> list[Any]:
    """The events that end an answer."""
    figures = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15} | usage
    choice = {"index": 0, "delta": {}, "finish_reason": reason}
    return [{"choices": [choice]}, {"choices": [], "usage": figures}, b"data: [DONE]\n\n"]


def answer(text: str, size: int = 40) -> list[Any]:
    """A whole answer, in pieces of so many characters."""
    return [*(chunk(text[at : at + size]) for at in range(0, len(text), size)), *end()]


class Scripted:
    """What the server answers next, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        """Forget everything: another test begins."""
        self.scripts: list[Sequence[Any]] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.key: str | None = None
        self.models: list[dict[str, Any]] = [
            {"id": "model-a"},
            {"id": "tuned", "parent": "model-a"},
        ]
        self.ended = threading.Event()
        self._gate = threading.Event()

    def go_on(self) -> None:
        """Let an answer that pauses go on."""
        self._gate.set()

    def refused(self, request: Request) -> Response | None:
        """The answer to whoever has no key, where one is needed."""
        given = request.headers.get("authorization")
        self.keys.append(given)
        if self.key is None or given == f"Bearer {self.key}":
            return None
        return JSONResponse({"error": {"message": "this server needs a key"}}, 401)

    async def steps(self, script: Sequence[Any]) -> AsyncIterator[bytes]:
        """The bytes of an answer."""
        gate, ended = self._gate, self.ended
        try:
            for step in script:
                if step is PAUSE:
                    for _ in range(_WAIT_SECONDS * 100):
                        if gate.is_set():
                            break
                        await asyncio.sleep(0.01)
                    gate.clear()
                elif step is DROP:
                    await asyncio.sleep(0.05)  # what was sent before has arrived
                    raise ConnectionAbortedError
                else:
                    yield (
                        step
                        if isinstance(step, bytes)
                        else f"data: {json.dumps(step)}\n\n".encode()
                    )
        finally:
            ended.set()


def _app(scripted: Scripted) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.include_router(page_routes())

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return scripted.refused(request) or JSONResponse({"data": scripted.models})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        refused = scripted.refused(request)
        if refused is not None:
            return refused
        scripted.bodies.append(await request.json())
        script = scripted.scripts.pop(0)
        if isinstance(script[0], int):
            return JSONResponse({"error": {"message": script[1]}}, script[0])
        scripted.ended.clear()
        return StreamingResponse(scripted.steps(script), media_type="text/event-stream")

    return app


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    """One that listens on a free port of 127.0.0.1."""
    scripted = Scripted()
    with open_socket("127.0.0.1", 0) as sock:
        config = uvicorn.Config(
            _app(scripted), log_config=None, log_level="critical", lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        while not server.started:
            assert thread.is_alive()
        scripted.url = url_of(sock, "127.0.0.1")
        try:
            yield scripted
        finally:
            server.force_exit = server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
