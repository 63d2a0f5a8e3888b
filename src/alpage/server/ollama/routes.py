"""The routes of Ollama's API."""

import asyncio
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from alpage import __version__
from alpage.core.errors import AlpageError
from alpage.server.backends.local import require_local
from alpage.server.backends.protocol import ServedModel
from alpage.server.bodies import described
from alpage.server.call import Call, Job, call_of
from alpage.server.errors import RequestError
from alpage.server.events import EventStream, line
from alpage.server.ollama import answers, models, pull
from alpage.server.ollama.answers import Telling, nanoseconds
from alpage.server.ollama.embeddings import Embedding, OllamaEmbed, OllamaEmbeddings
from alpage.server.ollama.errors import error_body
from alpage.server.ollama.fields import Asking
from alpage.server.ollama.models import OllamaShow
from alpage.server.ollama.names import served_name
from alpage.server.ollama.pull import OllamaPull, Pulls
from alpage.server.ollama.requests import OllamaChat, OllamaGenerate
from alpage.server.openai.reading import read
from alpage.server.pool import Pool
from alpage.server.running import while_connected

REQUESTS: tuple[type[BaseModel], ...] = (
    OllamaChat,
    OllamaGenerate,
    OllamaEmbed,
    OllamaEmbeddings,
    OllamaShow,
    OllamaPull,
)
_LINES = "application/x-ndjson"
_ELSEWHERE = {
    ("DELETE", "/delete"): "alpage rm NAME removes a model",
    ("POST", "/copy"): "a model is served under the name that alpage serve is given",
    ("POST", "/create"): "alpage convert and alpage quantize make models",
    ("POST", "/push"): "Alpage publishes no models",
    ("POST", "/blobs/{digest}"): "alpage pull and alpage convert bring models here",
    ("HEAD", "/blobs/{digest}"): "alpage pull and alpage convert bring models here",
}
"""Routes of Ollama's that change a store of models, and what to do instead."""


def ollama_routes(pool: Pool, home: Path | None) -> APIRouter:
    """The routes, for these models; `home`: where models are pulled to, None for the settings'."""
    routes = APIRouter(prefix="/api", tags=["ollama"])
    _add_answers(routes, pool)
    _add_embeddings(routes, pool)
    _add_models(routes, pool)
    _add_pull(routes, home)
    for (method, path), instead in _ELSEWHERE.items():
        _add_refusal(routes, method, path, instead)
    return routes


def _add_answers(routes: APIRouter, pool: Pool) -> None:
    @routes.post("/chat", openapi_extra=described(OllamaChat))
    async def chat(request: Request) -> Response:
        """Answer a conversation."""
        return await _answer(request, pool, await read(request, OllamaChat), "chat")

    @routes.post("/generate", openapi_extra=described(OllamaGenerate))
    async def generate(request: Request) -> Response:
        """Answer a prompt."""
        return await _answer(request, pool, await read(request, OllamaGenerate), "generate")


async def _answer(
    request: Request,
    pool: Pool,
    asked: OllamaChat | OllamaGenerate,
    kind: Literal["chat", "generate"],
) -> Response:
    call = call_of(request)
    if asked.empty and asked.keep_seconds == 0:
        await _unload(call, pool, asked.model)
        return JSONResponse(Telling(call, asked.model, kind, 0.0).nothing("unload"))
    name, model, loaded = await _ready(call, pool, asked)
    telling = Telling(call, asked.model, kind, loaded)
    if asked.empty:
        return JSONResponse(telling.nothing("load"))
    job = await call.ask(name, await asyncio.to_thread(asked.query, model))
    _fit(job, asked.chosen.num_ctx)
    if asked.streams:
        return EventStream(answers.lines(job, telling), failed, call=call, media_type=_LINES)
    return JSONResponse(await while_connected(request.receive, answers.whole(job, telling)))


async def _ready(call: Call, pool: Pool, asked: Asking) -> tuple[str, ServedModel, float]:
    """The model under the server's name for it, and the seconds until it was loaded."""
    began = time.perf_counter()
    name = served_name(asked.model, pool, call.caller)
    model = await call.lease(name)
    wanted = asked.chosen.num_ctx
    if wanted is not None:
        context = require_local(model, "options.num_ctx").llm.context
        if wanted > context:
            raise RequestError(
                f"options.num_ctx is {wanted}, but {name!r:.80} is loaded with a context of "
                f"{context} tokens; ask for no more, or serve it with a larger one",
                param="options.num_ctx",
            )
    loaded, seconds = time.perf_counter() - began, asked.keep_seconds
    if seconds is not None:
        await pool.keep(name, None if math.isinf(seconds) else seconds)
    return name, model, loaded


async def _unload(call: Call, pool: Pool, asked: str) -> None:
    """Take a model out of memory, as soon as nobody uses it."""
    call.model = name = served_name(asked, pool, call.caller)
    if not pool.card(name, call.caller).loaded:
        return
    await pool.unload(name)
    if pool.card(name, call.caller).loaded and pool.expires(name) is None:
        raise RequestError(
            f"keep_alive is 0, but the server keeps {name!r:.80} loaded as long as it runs",
            param="keep_alive",
        )


def _fit(job: Job, context: int | None) -> None:
    """Keep prompt and answer within the context that a request asks for."""
    if context is None:
        return
    room = context - job.prepared.prompt_tokens
    if room < 1:
        raise RequestError(
            f"the prompt has {job.prepared.prompt_tokens} tokens, which leaves no room in "
            f"options.num_ctx, {context}",
            param="options.num_ctx",
            code="context_length_exceeded",
        )
    job.prepared = job.prepared.bounded(room)


def _add_embeddings(routes: APIRouter, pool: Pool) -> None:
    async def embedded(
        request: Request, asked: Embedding, texts: Sequence[str], *, cut: bool | None
    ) -> tuple[list[list[float]], dict[str, Any]]:
        call = call_of(request)
        name, model, loaded = await _ready(call, pool, asked)
        vectors: list[list[float]] = []
        if texts:
            query = await asyncio.to_thread(asked.query_of, texts, model, cut=cut)
            found = await while_connected(request.receive, call.embed(name, query))
            vectors = await asyncio.to_thread(found.tolist)
        return vectors, {
            "total_duration": nanoseconds(time.perf_counter() - call.began),
            "load_duration": nanoseconds(loaded),
            "prompt_eval_count": call.prompt_tokens,
        }

    @routes.post("/embed", openapi_extra=described(OllamaEmbed))
    async def embed(request: Request) -> Response:
        """Vectors of texts."""
        asked = await read(request, OllamaEmbed)
        vectors, facts = await embedded(request, asked, asked.texts, cut=asked.truncate)
        answer = {"model": asked.model, "embeddings": vectors, **facts}
        # A million numbers take a while to be written: not in the event loop.
        return await asyncio.to_thread(JSONResponse, answer)

    @routes.post("/embeddings", openapi_extra=described(OllamaEmbeddings))
    async def embed_one(request: Request) -> Response:
        """The vector of one text."""
        asked = await read(request, OllamaEmbeddings)
        texts = [asked.prompt] if asked.prompt else []
        vectors, _ = await embedded(request, asked, texts, cut=None)
        return JSONResponse({"embedding": vectors[0] if vectors else []})


def _add_models(routes: APIRouter, pool: Pool) -> None:
    @routes.get("/tags")
    async def list_models(request: Request) -> dict[str, Any]:
        """Every model that the caller may ask."""
        return models.tags(pool, call_of(request).caller)

    @routes.get("/ps")
    async def list_running(request: Request) -> dict[str, Any]:
        """The models in memory."""
        return models.running(pool, call_of(request).caller)

    @routes.post("/show", openapi_extra=described(OllamaShow))
    async def show_model(request: Request) -> dict[str, Any]:
        """All that is known of one model."""
        asked = await read(request, OllamaShow)
        return models.show(asked, pool, call_of(request).caller)

    @routes.get("/version")
    async def version() -> dict[str, Any]:
        """Alpage's version."""
        return {"version": __version__}


def _add_pull(routes: APIRouter, home: Path | None) -> None:
    pulls = Pulls(home)

    @routes.post("/pull", openapi_extra=described(OllamaPull))
    async def pull_model(request: Request) -> Response:
        """Download a model to this machine."""
        call = call_of(request)
        if not call.caller.may("admin"):
            raise RequestError(
                "pulling a model needs a key with the scope admin",
                status=403,
                code="permission_denied",
            )
        asked = await read(request, OllamaPull)
        name = pull.name_to_pull(asked)
        if asked.streams:
            events = pull.lines(pulls, name)
            return EventStream(events, failed, call=call, media_type=_LINES)
        return JSONResponse(await while_connected(request.receive, pull.whole(pulls, name)))


def _add_refusal(routes: APIRouter, method: str, path: str, instead: str) -> None:
    async def refuse(request: Request) -> Response:
        raise RequestError(f"{request.url.path:.80} is not supported: {instead}")

    routes.add_api_route(path, refuse, methods=[method], include_in_schema=False)


def failed(error: AlpageError) -> bytes:
    """The last line of a stream that fails in the middle."""
    return line(error_body(error))
