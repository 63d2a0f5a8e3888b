"""Errors in OpenAI's shape."""

import dataclasses
from typing import Any

from alpage.core.errors import AlpageError
from alpage.core.types import SamplingParams
from alpage.server.errors import RequestError, status_of

_SAMPLING = frozenset(field.name for field in dataclasses.fields(SamplingParams))
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}


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
