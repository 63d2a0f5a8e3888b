"""The routes of OpenAI's API."""

import asyncio
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from alpage.core.errors import AlpageError
from alpage.server.backends.protocol import ModelCard
from alpage.server.call import call_of
from alpage.server.events import EventStream, event
from alpage.server.guard import read_body
from alpage.server.openai import chat, completions
from alpage.server.openai.chat_request import ChatRequest
from alpage.server.openai.completion_request import CompletionRequest
from alpage.server.openai.errors import error_body
from alpage.server.openai.fields import Body, parse
from alpage.server.pool import Pool
from alpage.server.running import while_connected

REQUESTS: tuple[type[BaseModel], ...] = (ChatRequest, CompletionRequest)
B = TypeVar("B", bound=Body)


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """What the schema says about a body that the route reads itself, off the event loop."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def openai_routes(pool: Pool) -> APIRouter:
    """The routes, for these models."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.get("/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """Every model that the caller may ask."""
        return {"object": "list", "data": [_card(c) for c in pool.cards(call_of(request).caller)]}

    @routes.get("/models/{name:path}")
    async def show_model(name: str, request: Request) -> dict[str, Any]:
        """One model."""
        return _card(pool.card(name, call_of(request).caller))

    @routes.post("/chat/completions", openapi_extra=_body(ChatRequest))
    async def answer_chat(request: Request) -> Response:
        """Answer a conversation."""
        call = call_of(request)
        asked = await read(request, ChatRequest)
        job = await call.ask(asked.model, asked.query())
        if asked.stream:
            return EventStream(chat.events(asked, job), failed, call=call)
        return JSONResponse(await while_connected(request.receive, chat.whole(job)))

    @routes.post("/completions", openapi_extra=_body(CompletionRequest))
    async def complete(request: Request) -> Response:
        """Continue texts."""
        call = call_of(request)
        asked = await read(request, CompletionRequest)
        job = await call.ask(asked.model, asked.query())
        echoed = await asyncio.to_thread(asked.echoed, job.model)
        if asked.stream:
            return EventStream(completions.events(asked, job, echoed), failed, call=call)
        answer = completions.whole(asked, job, echoed)
        return JSONResponse(await while_connected(request.receive, answer))

    return routes


async def read(request: Request, model: type[B]) -> B:
    """The checked body of a request; a RequestError about its first mistake."""
    body = await read_body(request)

    def parsed() -> B:
        asked = parse(model, body)
        asked.check()
        return asked

    return await asyncio.to_thread(parsed)  # a large body takes a while


def failed(error: AlpageError) -> bytes:
    """The last event of a stream that fails in the middle."""
    return event(error_body(error))


def _card(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": card.authors or "unknown",
        "context_length": card.context,
        "licence": card.licence,
    }
