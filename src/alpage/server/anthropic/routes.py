"""The routes of Anthropic's API."""

import asyncio
import json
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from alpage.core.errors import AlpageError
from alpage.server.anthropic import answers
from alpage.server.anthropic.errors import REFUSALS, MessageError, error_body
from alpage.server.anthropic.headers import check_headers, check_query
from alpage.server.anthropic.message_request import CountRequest, MessageRequest, PromptFields
from alpage.server.anthropic.models import model_routes
from alpage.server.bodies import described
from alpage.server.call import Call, Job, call_of
from alpage.server.errors import RequestError
from alpage.server.events import EventStream, Failed, event
from alpage.server.openai.reading import read
from alpage.server.pool import Pool
from alpage.server.running import while_connected

REQUESTS: tuple[type[BaseModel], ...] = (MessageRequest, CountRequest)
P = TypeVar("P", bound=PromptFields)


_STATUSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "model": MessageError} for status, text in REFUSALS.items()
}
_EVENTS = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


def anthropic_routes(pool: Pool) -> APIRouter:
    """The routes, for these models. They have to stand before OpenAI's: see `model_routes`."""
    routes = APIRouter(tags=["anthropic"])
    routes.include_router(model_routes(pool))

    @routes.post(
        "/v1/messages",
        openapi_extra=described(MessageRequest),
        responses={**_STATUSES, 200: {"description": "The answer", **_EVENTS}},
    )
    async def answer_message(request: Request) -> Response:
        """Answer a conversation."""
        call = call_of(request)
        asked, job = await _job(request, MessageRequest)
        if asked.stream:
            return EventStream(answers.events(job), _failed(call), call=call)
        answer = await while_connected(request.receive, answers.whole(job))
        # In ASCII: the input of a tool may hold half a surrogate pair, which UTF-8 cannot write.
        return Response(json.dumps(answer), media_type="application/json")

    @routes.post(
        "/v1/messages/count_tokens", openapi_extra=described(CountRequest), responses=_STATUSES
    )
    async def count_tokens(request: Request) -> dict[str, Any]:
        """Count the tokens of a conversation; nothing runs."""
        _, job = await _job(request, CountRequest)
        if job.model.card.kind == "upstream":
            raise _elsewhere(job, "its tokens cannot be counted here")
        return {"input_tokens": job.prepared.prompt_tokens}

    return routes


async def _job(request: Request, model: type[P]) -> tuple[P, Job]:
    check_headers(request)
    check_query(request)
    asked = await read(request, model)
    query = await asyncio.to_thread(asked.query)  # a long conversation takes a while
    job = await call_of(request).ask(asked.model, query)
    if query.begun and job.model.card.kind == "upstream":
        raise _elsewhere(job, "the last message cannot begin its answer")
    return asked, job


def _elsewhere(job: Job, cannot: str) -> RequestError:
    """For what is not to be had from a model that another server runs."""
    return RequestError(f"the model {job.model.card.name!r:.80} runs on another server: {cannot}")


def _failed(call: Call) -> Failed:
    """The last event of a stream that fails in the middle."""

    def last(error: AlpageError) -> bytes:
        return event(error_body(error) | {"request_id": call.id}, "error")

    return last
