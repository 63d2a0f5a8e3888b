"""What is answered when a route raises: each dialect's own shape of error, chosen by the path."""

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from alpage.core.errors import AlpageError, InternalError
from alpage.server.call import Call
from alpage.server.calls import CLIENT_GONE
from alpage.server.dialects import error_response
from alpage.server.errors import RequestError, status_of

_LOG = logging.getLogger("alpage.server")


async def on_alpage_error(request: Request, error: Exception) -> Response:
    """For errors that are raised on purpose."""
    assert isinstance(error, AlpageError)
    if status_of(error) == 500:
        _LOG.error("%s: %s", type(error).__name__, error)
    return _told(request, error, error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """For what the routing refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    message = {
        404: f"there is no {request.url.path!r:.200} here",
        405: f"{request.method} does not work on {request.url.path!r:.200}",
    }.get(error.status_code, str(error.detail))
    refused = RequestError(message, status=error.status_code, code="not_found")
    response = _told(request, refused, refused)
    response.headers.update(error.headers or {})
    return response


async def on_bug(request: Request, error: Exception) -> Response:
    """For everything else; the traceback goes to the log, not to the client."""
    bug = InternalError("the server failed on this request; its log says where")
    return _told(request, error, bug)


async def on_client_gone(_: Request, error: Exception) -> Response:
    """For a client that has gone: only logs could see this status, which is nginx's for it."""
    return Response(status_code=CLIENT_GONE)


def _told(request: Request, error: Exception, answer: AlpageError) -> Response:
    call = getattr(request.state, "call", None)
    call_id = None
    if isinstance(call, Call):
        call.told(error)
        call_id = call.id
    return error_response(answer, request.url.path, request.headers, call_id)
