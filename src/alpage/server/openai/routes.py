"""The routes of OpenAI's API."""

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from alpage.server.backends.protocol import ModelCard
from alpage.server.bodies import described
from alpage.server.call import call_of
from alpage.server.events import EventStream
from alpage.server.openai import chat, completions, embeddings
from alpage.server.openai.chat_request import ChatRequest
from alpage.server.openai.completion_request import CompletionRequest
from alpage.server.openai.embeddings import EmbeddingsRequest
from alpage.server.openai.reading import failed, read, statuses
from alpage.server.openai.response_request import ResponseRequest
from alpage.server.openai.response_routes import response_routes
from alpage.server.openai.storage import ResponseStore
from alpage.server.pool import Pool
from alpage.server.running import while_connected

REQUESTS: tuple[type[BaseModel], ...] = (
    ChatRequest,
    CompletionRequest,
    EmbeddingsRequest,
    ResponseRequest,
)


def openai_routes(pool: Pool, store: ResponseStore | None) -> APIRouter:
    """The routes, for these models; without a store no response is kept."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.get("/models", responses=statuses())
    async def list_models(request: Request) -> dict[str, Any]:
        """Every model that the caller may ask."""
        return {"object": "list", "data": [_card(c) for c in pool.cards(call_of(request).caller)]}

    @routes.get("/models/{name:path}", responses=statuses())
    async def show_model(name: str, request: Request) -> dict[str, Any]:
        """One model."""
        return _card(pool.card(name, call_of(request).caller))

    @routes.post(
        "/chat/completions",
        openapi_extra=described(ChatRequest),
        responses=statuses(body=True, stream=True),
    )
    async def answer_chat(request: Request) -> Response:
        """Answer a conversation."""
        call = call_of(request)
        asked = await read(request, ChatRequest)
        job = await call.ask(asked.model, asked.query())
        if asked.stream:
            return EventStream(chat.events(asked, job), failed, call=call)
        return JSONResponse(await while_connected(request.receive, chat.whole(job)))

    @routes.post(
        "/completions",
        openapi_extra=described(CompletionRequest),
        responses=statuses(body=True, stream=True),
    )
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

    @routes.post(
        "/embeddings", openapi_extra=described(EmbeddingsRequest), responses=statuses(body=True)
    )
    async def embed(request: Request) -> Response:
        """Texts as vectors."""
        call = call_of(request)
        asked = await read(request, EmbeddingsRequest)
        asking = call.embed(asked.model, asked.query())
        vectors = await while_connected(request.receive, asking)
        body = await asyncio.to_thread(embeddings.answer, asked, vectors, call.prompt_tokens)
        return Response(body, media_type="application/json")

    routes.include_router(response_routes(store))
    return routes


def _card(card: ModelCard) -> dict[str, Any]:
    """OpenAI's facts, and those that clients of Alpage, such as its page, may want."""
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": card.authors or "unknown",
        "context_length": card.context,
        "licence": card.licence,
        "parent": card.parent,
    }
