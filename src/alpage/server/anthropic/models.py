"""The models of this server in Anthropic's shape, for requests that name a version of its API."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import Scope

from alpage.server.anthropic.headers import VERSION_HEADER, check_headers, check_query
from alpage.server.backends.protocol import ModelCard
from alpage.server.call import call_of
from alpage.server.errors import RequestError
from alpage.server.pool import Pool

_MOST = 1000
_LIFECYCLES = ("active", "deprecated", "retired")


class _Versioned(APIRoute):
    """A route for requests with a version of Anthropic's API; the others are OpenAI's."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette has it."""
        if scope["type"] != "http" or VERSION_HEADER not in Headers(scope=scope):
            return Match.NONE, {}
        return super().matches(scope)


def model_routes(pool: Pool) -> APIRouter:
    """The routes, which have to stand before OpenAI's of the same paths."""
    routes = APIRouter(
        prefix="/v1", tags=["anthropic"], route_class=_Versioned, include_in_schema=False
    )

    @routes.get("/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """A page of the models that the caller may ask."""
        check_headers(request)
        check_query(request, "limit", "after_id", "before_id", "lifecycle", "lifecycle[]")
        asked = request.query_params
        cards = pool.cards(call_of(request).caller) if _active(asked) else []
        return _page(cards, asked)

    @routes.get("/models/{name:path}")
    async def show_model(name: str, request: Request) -> dict[str, Any]:
        """One model."""
        check_headers(request)
        check_query(request)
        return _card(pool.card(name, call_of(request).caller))

    return routes


def _active(asked: QueryParams) -> bool:
    """Whether models that can be asked are wanted: all of these can."""
    wanted = [*asked.getlist("lifecycle"), *asked.getlist("lifecycle[]")]
    for value in wanted:
        if value not in _LIFECYCLES:
            raise RequestError(
                f"lifecycle is {value!r:.80}: supported is {', '.join(_LIFECYCLES)}",
                param="lifecycle",
            )
    return not wanted or "active" in wanted


def _page(cards: Sequence[ModelCard], asked: QueryParams) -> dict[str, Any]:
    limit = _limit(asked.get("limit", "20"))
    names = [card.name for card in cards]
    after, before = asked.get("after_id"), asked.get("before_id")
    if after is not None and before is not None:
        raise RequestError("after_id and before_id exclude each other", param="after_id")
    if before is not None:
        end = _place(names, before, "before_id")
        start = max(0, end - limit)
        more = start > 0
    else:
        start = 0 if after is None else _place(names, after, "after_id") + 1
        end = min(len(cards), start + limit)
        more = end < len(cards)
    page = [_card(card) for card in cards[start:end]]
    return {
        "data": page,
        "has_more": more,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def _limit(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= _MOST:
        return int(text)
    raise RequestError(
        f"limit is {text!r:.80}: it must be a number from 1 to {_MOST}", param="limit"
    )


def _place(names: Sequence[str], name: str, param: str) -> int:
    if name not in names:
        raise RequestError(f"{param} is {name!r:.80}, which is no model here", param=param)
    return names.index(name)


def _card(card: ModelCard) -> dict[str, Any]:
    created = datetime.fromtimestamp(card.created, UTC)
    return {
        "type": "model",
        "id": card.name,
        "display_name": card.name,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": card.context,
        "max_tokens": card.context,
    }
