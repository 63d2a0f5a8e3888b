"""Errors in Anthropic's shape."""

from typing import Any, Literal

from pydantic import BaseModel

from alpage.core.errors import AlpageError
from alpage.server.errors import RequestError, status_of

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
REFUSALS = {
    400: "The request cannot work as it is",
    401: "The key is missing or unknown",
    403: "The key, the host or the page that asks may not do this",
    404: "There is no such model",
    405: "The method does not work on this path",
    408: "The body came too slowly",
    413: "The body is too large",
    415: "The body is not application/json",
    429: "The caller's limits are reached: try again later",
    500: "The server failed",
    503: "Memory, cache or queue are full: try again later",
}
"""Every status that is no success, for the schema."""

_NO_THREADS = {"error_code": "thread_unsupported_request"}
"""With it the client's tool runner sends the whole conversation again, without `thread`."""


class MessageErrorDetail(BaseModel):
    """What went wrong: for a person, and in words for programs."""

    type: str
    message: str
    details: dict[str, str] | None = None


class MessageError(BaseModel):
    """Every answer that is no success."""

    type: Literal["error"]
    error: MessageErrorDetail
    request_id: str | None


def error_body(error: AlpageError) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message"}}`; `details` where clients use them."""
    kind = _TYPES.get(status_of(error), "invalid_request_error")
    message = str(error).replace(".function.parameters", ".input_schema")  # as OpenAI has it
    told: dict[str, Any] = {"type": kind, "message": message}
    if isinstance(error, RequestError) and error.param == "thread":
        told["details"] = _NO_THREADS
    return {"type": "error", "error": told}
