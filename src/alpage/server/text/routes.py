"""Alpage's own routes about text. Errors have OpenAI's shape."""

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from alpage.server.backends.local import LocalModel, require_local
from alpage.server.bodies import described
from alpage.server.call import Call, call_of
from alpage.server.errors import RequestError
from alpage.server.openai.reading import read
from alpage.server.running import while_connected
from alpage.server.text.requests import (
    MAX_PIECES,
    ApplyTemplateRequest,
    DetokenizeRequest,
    RerankRequest,
    TokenizeRequest,
    shown_messages,
    shown_tools,
)
from alpage.server.text.rerank import reranked

REQUESTS: tuple[type[BaseModel], ...] = (
    TokenizeRequest,
    DetokenizeRequest,
    ApplyTemplateRequest,
    RerankRequest,
)


def text_routes() -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["alpage"])

    @routes.post("/tokenize", openapi_extra=described(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        """Token ids of a text or a conversation."""
        asked = await read(request, TokenizeRequest)
        model = await _local(call_of(request), asked.model, "tokenize")
        return await asyncio.to_thread(lambda: JSONResponse(_tokenized(asked, model)))

    @routes.post("/detokenize", openapi_extra=described(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        asked = await read(request, DetokenizeRequest)
        model = await _local(call_of(request), asked.model, "detokenize")
        text = await asyncio.to_thread(model.text_of, asked.tokens)
        return JSONResponse({"model": asked.model, "text": text})

    @routes.post("/apply-template", openapi_extra=described(ApplyTemplateRequest))
    async def apply_template(request: Request) -> Response:
        """The prompt that a conversation makes."""
        asked = await read(request, ApplyTemplateRequest)
        model = await _local(call_of(request), asked.model, "apply-template")
        messages, tools = shown_messages(asked.messages), shown_tools(asked.tools)
        text, ids = await asyncio.to_thread(model.render, messages, tools)
        return JSONResponse({"model": asked.model, "text": text, "count": len(ids)})

    @routes.post("/rerank", openapi_extra=described(RerankRequest))
    async def rerank(request: Request) -> Response:
        """Documents in the order of what they have to do with a query."""
        asked = await read(request, RerankRequest)
        answer = reranked(asked, call_of(request))
        return JSONResponse(await while_connected(request.receive, answer))

    return routes


async def _local(call: Call, name: str, what: str) -> LocalModel:
    return require_local(await call.lease(name), what)


def _tokenized(asked: TokenizeRequest, model: LocalModel) -> dict[str, Any]:
    if asked.text is None:
        _, ids = model.render(shown_messages(asked.messages), shown_tools(asked.tools))
    else:
        special, begin = bool(asked.parse_special), bool(asked.add_special)
        ids = model.ids_of(asked.text, special=special, begin=begin)
    answer: dict[str, Any] = {"model": asked.model, "ids": ids, "count": len(ids)}
    if asked.pieces:
        if len(ids) > MAX_PIECES:
            raise RequestError(
                f"the text has {len(ids)} tokens; pieces are told of at most {MAX_PIECES}",
                param="pieces",
            )
        answer["pieces"] = [_piece(token, model.bytes_of(token)) for token in ids]
    return answer


def _piece(token: int, data: bytes) -> dict[str, Any]:
    """A token in full: half a character is U+FFFD in `text`, and itself in `bytes`."""
    return {"id": token, "text": data.decode("utf-8", "replace"), "bytes": list(data)}
