"""Reading bodies, and what the schema says about refusals."""

import asyncio
from typing import Any, TypeVar

from starlette.requests import Request

from alpage.core.errors import AlpageError
from alpage.server.errors import RequestError
from alpage.server.events import event
from alpage.server.guard import read_body
from alpage.server.openai.errors import ErrorBody, error_body
from alpage.server.openai.fields import Body, parse

B = TypeVar("B", bound=Body)
Documented = dict[int | str, dict[str, Any]]

_REFUSALS = {
    400: "The request cannot work as it is",
    401: "The key is missing or unknown",
    403: "The key, the host or the page that asks may not do this",
    404: "There is no such model or object",
    405: "The method does not work on this path",
    429: "The caller's limits are reached: try again later",
    500: "The server failed",
    503: "Memory, cache or queue are full: try again later",
}
_BODY_REFUSALS = {
    408: "The body came too slowly",
    413: "The body is too large",
    415: "The body is not application/json",
}


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


def statuses(*, body: bool = False, stream: bool = False) -> Documented:
    """Every status of a route, for the schema; with `stream` it may answer in events."""
    refusals = _REFUSALS | (_BODY_REFUSALS if body else {})
    found: Documented = {
        status: {"description": text, "model": ErrorBody} for status, text in refusals.items()
    }
    if stream:
        found[200] = {"description": "The answer", "content": {"text/event-stream": {}}}
    return found


def check_parameters(request: Request, *known: str) -> None:
    """Refuse parameters in the address that the route does not know; a RequestError."""
    for name in request.query_params:
        if name not in known:
            raise RequestError(
                f"{name:.80}: this route has no such parameter"
                + (f"; it has {', '.join(known)}" if known else ""),
                param=name[:80],
                code="unknown_parameter",
            )
