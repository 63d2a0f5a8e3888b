"""The routes of OpenAI's Responses API."""

import asyncio
import json
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from alpage.core.errors import UsageError
from alpage.server.bodies import described
from alpage.server.call import Call, Job, call_of
from alpage.server.errors import RequestError
from alpage.server.events import EventStream
from alpage.server.openai.errors import place_of
from alpage.server.openai.items import JsonItem, kept_items
from alpage.server.openai.reading import check_parameters, read, statuses
from alpage.server.openai.response_request import LOGPROBS, ResponseRequest
from alpage.server.openai.responses import Reply
from alpage.server.openai.storage import ResponseStore, Stored
from alpage.server.running import while_connected

_PAGE = 20
_MOST = 100


def response_routes(store: ResponseStore | None) -> APIRouter:
    """The routes; without a store no response can be come back to."""
    routes = APIRouter(prefix="/responses")

    @routes.post(
        "", openapi_extra=described(ResponseRequest), responses=statuses(body=True, stream=True)
    )
    async def respond(request: Request) -> Response:
        """Answer a conversation, which can go on from the answer."""
        call = call_of(request)
        asked = await read(request, ResponseRequest)
        if asked.store and store is None:
            raise RequestError("store is true, but this server keeps nothing", param="store")
        earlier, name = None, asked.previous_response_id
        if name is not None:
            earlier = _found(store, call, name, param="previous_response_id")
        items = await asyncio.to_thread(_conversation, asked, earlier)
        job = await _asked(call, asked, items)

        def keep(name: str, stored: Stored) -> bool:
            return store is not None and store.put(call.caller.tenant, name, stored)

        wanted = store is not None and asked.store is not False
        reply = Reply(asked, job, items, keep if wanted else None)
        if asked.stream:
            return EventStream(reply.events(), reply.failed, call=call)
        return JSONResponse(await while_connected(request.receive, reply.whole()))

    @routes.get("/{response_id}", responses=statuses())
    async def show(response_id: str, request: Request) -> Response:
        """A response that was kept."""
        check_parameters(request, "include", "include[]", "stream")
        _check_include(request)
        if request.query_params.get("stream", "false") != "false":
            raise RequestError("a kept response cannot be streamed again", param="stream")
        kept = _found(store, call_of(request), response_id)
        return Response(kept.response, media_type="application/json")

    @routes.delete("/{response_id}", responses=statuses())
    async def forget(response_id: str, request: Request) -> dict[str, Any]:
        """Forget a response."""
        check_parameters(request)
        call = call_of(request)
        _found(store, call, response_id)
        assert store is not None  # else nothing was found
        store.delete(call.caller.tenant, response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @routes.get("/{response_id}/input_items", responses=statuses())
    async def show_items(response_id: str, request: Request) -> dict[str, Any]:
        """What a response answered, the earlier conversation included; the newest first."""
        check_parameters(request, "after", "include", "include[]", "limit", "order")
        _check_include(request)
        kept = _found(store, call_of(request), response_id)
        return _page(request, await asyncio.to_thread(json.loads, kept.items))

    return routes


def _conversation(asked: ResponseRequest, earlier: Stored | None) -> list[JsonItem]:
    """All items that the model sees: of the response that it goes on from, and the new ones."""
    given = kept_items(asked.input)
    if earlier is None:
        return given
    output: list[JsonItem] = json.loads(earlier.response)["output"]
    return [*json.loads(earlier.items), *output, *given]


async def _asked(call: Call, asked: ResponseRequest, items: list[JsonItem]) -> Job:
    query = await asyncio.to_thread(asked.query, items)
    try:
        return await call.ask(asked.model, query)
    except UsageError as error:  # here some fields have other names
        message = str(error)
        if message.startswith("tools["):
            message = message.replace(".function", "", 1)
        param = "text.format" if message.startswith("json_schema") else place_of(message)
        raise RequestError(message, param=param) from error


def _found(
    store: ResponseStore | None, call: Call, name: str, *, param: str | None = None
) -> Stored:
    """What the caller's tenant keeps under that id; a RequestError with status 404 if nothing."""
    kept = None if store is None else store.get(call.caller.tenant, name)
    if kept is None:
        code = "not_found" if param is None else "previous_response_not_found"
        raise RequestError(
            f"there is no response {name!r:.140} here: its id is wrong, it was not stored, "
            "or it is no longer kept",
            status=404,
            param=param,
            code=code,
        )
    return kept


def _check_include(request: Request) -> None:
    for name in ("include", "include[]"):
        for value in request.query_params.getlist(name):
            if value != LOGPROBS:
                raise RequestError(
                    f"include is {value!r:.80}: supported is {LOGPROBS!r}", param="include"
                )


def _page(request: Request, items: list[JsonItem]) -> dict[str, Any]:
    """The part of a list that is asked for."""
    given = request.query_params
    order, after = given.get("order", "desc"), given.get("after")
    if order not in ("asc", "desc"):
        raise RequestError(f"order is {order!r:.80}: supported is asc, desc", param="order")
    limit = given.get("limit", str(_PAGE))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:4]) <= _MOST:
        raise RequestError(f"limit is {limit!r:.80}: it is 1 to {_MOST}", param="limit")
    if order == "desc":
        items = items[::-1]
    if after is not None:
        place = next((i for i, item in enumerate(items) if item["id"] == after), None)
        if place is None:
            raise RequestError(f"after is {after!r:.140}: no item has that id", param="after")
        items = items[place + 1 :]
    page = items[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > len(page),
    }
