"""Errors in Anthropic's shape."""

from typing import Any

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
_NO_THREADS = {"error_code": "thread_unsupported_request"}
"""With it the client's tool runner sends the whole conversation again, without `thread`."""


def error_body(error: AlpageError) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message"}}`; `details` where clients use them."""
    kind = _TYPES.get(status_of(error), "invalid_request_error")
    told: dict[str, Any] = {"type": kind, "message": str(error)}
    if isinstance(error, RequestError) and error.param == "thread":
        told["details"] = _NO_THREADS
    return {"type": "error", "error": told}
