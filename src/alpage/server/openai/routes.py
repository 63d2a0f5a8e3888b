"""The routes of OpenAI's API."""

import asyncio
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from alpage.server.events import EventStream
from alpage.server.guard import read_body
from alpage.server.openai import chat, completions
from alpage.server.openai.chat_request import ChatRequest
from alpage.server.openai.completion_request import CompletionRequest
from alpage.server.openai.errors import error_body
from alpage.server.openai.fields import parse
from alpage.server.running import while_connected
from alpage.server.served import Served, ServedModels

REQUESTS: tuple[type[BaseModel], ...] = (ChatRequest, CompletionRequest)
T = TypeVar("T")


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """What the schema says about a body that the route reads itself, off the event loop."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def openai_routes(models: ServedModels) -> APIRouter:
    """The routes, for these models."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.get("/models")
    async def list_models() -> dict[str, Any]:
        """Every model of this server."""
        return {"object": "list", "data": [_card(served) for served in models]}

    @routes.get("/models/{name:path}")
    async def show_model(name: str) -> dict[str, Any]:
        """One model."""
        return _card(models.get(name))

    @routes.post("/chat/completions", openapi_extra=_body(ChatRequest))
    async def answer_chat(request: Request) -> Response:
        """Answer a conversation."""
        body = await read_body(request)

        def prepare() -> tuple[ChatRequest, Served, Any]:
            asked = parse(ChatRequest, body)
            asked.check()
            served = models.get(asked.model)
            requests = asked.text_requests(served.llm)
            served.check_lengths(requests)
            return asked, served, requests

        # Encoding a long prompt takes a while: not in the event loop.
        asked, served, requests = await asyncio.to_thread(prepare)
        if asked.stream:
            return EventStream(chat.events(asked, served, requests), error_body)
        answer = chat.whole(asked, served, requests)
        return JSONResponse(await while_connected(request.receive, answer))

    @routes.post("/completions", openapi_extra=_body(CompletionRequest))
    async def complete(request: Request) -> Response:
        """Continue texts."""
        body = await read_body(request)

        def prepare() -> tuple[CompletionRequest, Served, Any, list[str]]:
            asked = parse(CompletionRequest, body)
            asked.check()
            served = models.get(asked.model)
            requests = asked.text_requests(served.llm)
            served.check_lengths(requests)
            return asked, served, requests, asked.echoed(served.llm, requests)

        asked, served, requests, echoed = await asyncio.to_thread(prepare)
        if asked.stream:
            return EventStream(completions.events(asked, served, requests, echoed), error_body)
        answer = completions.whole(asked, served, requests, echoed)
        return JSONResponse(await while_connected(request.receive, answer))

    return routes


def _card(served: Served) -> dict[str, Any]:
    info = served.llm.model
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": info.lineage.authors or "unknown",
        "context_length": served.llm.context,
        "licence": info.licence,
    }
