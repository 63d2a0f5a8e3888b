"""Errors in OpenAI's shape."""

import dataclasses
import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from alpage.core.errors import AlpageError, InternalError
from alpage.core.types import SamplingParams
from alpage.server.errors import RequestError, status_of

_LOG = logging.getLogger("alpage.server")
_SAMPLING = frozenset(field.name for field in dataclasses.fields(SamplingParams))
_TYPES = {403: "permission_error", 408: "timeout_error", 503: "server_error", 500: "server_error"}


def error_body(error: AlpageError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    message = str(error)
    param = code = None
    if isinstance(error, RequestError):
        param, code = error.param, error.code
    elif (word := message.partition(" ")[0]) in _SAMPLING:
        param = word  # messages about sampling options begin with the option's name
    elif word == "json_schema":  # those about a schema likewise
        param = "response_format"
    kind = _TYPES.get(status_of(error), "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: AlpageError) -> JSONResponse:
    """The same as a whole answer, with the error's status."""
    return JSONResponse(error_body(error), status_of(error))


async def on_alpage_error(_: Request, error: Exception) -> Response:
    """For errors that are raised on purpose."""
    assert isinstance(error, AlpageError)
    if status_of(error) == 500:
        _LOG.error("%s: %s", type(error).__name__, error)
    return error_response(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """For what the routing refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    message = {
        404: f"there is no {request.url.path!r:.200} here",
        405: f"{request.method} does not work on {request.url.path!r:.200}",
    }.get(error.status_code, str(error.detail))
    refused = RequestError(message, status=error.status_code, code="not_found")
    response = error_response(refused)
    response.headers.update(error.headers or {})
    return response


async def on_bug(_: Request, error: Exception) -> Response:
    """For everything else; the traceback goes to the log, not to the client."""
    bug = InternalError("the server failed on this request; its log says where")
    return error_response(bug)
