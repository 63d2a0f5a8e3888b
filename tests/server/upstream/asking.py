"""Asking a scripted server through an UpstreamModel."""

import asyncio
from typing import Any

from tests.server.upstream.scripted import Scripted, Step, scripted

from alpage.llama import Piece
from alpage.server.backends.fleet import Endpoints
from alpage.server.backends.protocol import Terms
from alpage.server.backends.upstream import UpstreamModel
from alpage.server.queries import ChatQuery, TextQuery
from alpage.server.running import Queue

SECRET = "sk-very-secret"
HI = ChatQuery(messages=[{"role": "user", "content": "Hi"}])


def model_of(*servers: Scripted, queue: Queue | None = None, **how: Any) -> UpstreamModel:
    given: dict[str, Any] = {"attempts": 1, "idle": 30.0, "first_byte": 30.0, "key": SECRET}
    urls = tuple(server.url for server in servers)
    return UpstreamModel(
        "far", "their-model", Endpoints(name="far", urls=urls, **given | how), queue=queue
    )


async def ask(
    model: UpstreamModel, query: ChatQuery | TextQuery = HI, terms: Terms | None = None
) -> list[list[Piece]]:
    prepared = model.prepare(query)
    found: list[list[Piece]] = [[] for _ in range(prepared.answers)]
    async with prepared.run(terms or Terms()) as pieces:
        async for index, piece in pieces:
            found[index].append(piece)
    assert model.active == 0 or model._activity.count == prepared.answers
    return found


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def once(*steps: Step, query: ChatQuery | TextQuery = HI, **how: Any) -> list[list[Piece]]:
    async def run() -> list[list[Piece]]:
        with scripted(*steps) as server:
            model = model_of(server, **how)
            try:
                return await ask(model, query)
            finally:
                assert model.active == 0
                assert model._activity.waiting == 0
                await model.leave()

    return asyncio.run(run())
