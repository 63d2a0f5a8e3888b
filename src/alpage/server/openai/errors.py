"""Errors in OpenAI's shape."""

import dataclasses
import re
from typing import Any

from pydantic import BaseModel

from alpage.core.errors import AlpageError
from alpage.core.types import SamplingParams
from alpage.server.errors import RequestError, status_of

_OPTIONS = {field.name for field in dataclasses.fields(SamplingParams)} | {
    "timeout", "regex", "grammar", "json_schema", "tools", "tool_choice",
}  # fmt: skip
_PLACE = re.compile(r"(\w+)((?:\[\d+\]|\.\w+)*)[: ]")
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


class ErrorDetail(BaseModel):
    """What went wrong: for a person, and in words for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is no success."""

    error: ErrorDetail


def place_of(message: str) -> str | None:
    """The field of a chat that a message is about: those about options begin with its name."""
    found = _PLACE.match(message)
    if found is None or found[1] not in _OPTIONS:
        return None
    return "response_format" if found[1] == "json_schema" else found[1] + found[2]


def error_body(error: AlpageError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    message = str(error)
    param = code = None
    if isinstance(error, RequestError):
        param, code = error.param, error.code
    else:
        param = place_of(message)
    kind = _TYPES.get(status_of(error), "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
