"""Which dialect a path belongs to, and how that dialect says what went wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from alpage.core.errors import AlpageError
from alpage.server.anthropic.errors import error_body as anthropic_body
from alpage.server.anthropic.headers import VERSION_HEADER
from alpage.server.errors import headers_of, status_of
from alpage.server.ollama.errors import error_body as ollama_body
from alpage.server.openai.errors import error_body as openai_body

ErrorBody = Callable[[AlpageError], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A family of clients.

    `tells_id`: answers have the call's id in the header `request-id`, and errors as `request_id`.
    """

    name: str
    error_body: ErrorBody
    tells_id: bool = False


OPENAI = Dialect("openai", openai_body)
ANTHROPIC = Dialect("anthropic", anthropic_body, tells_id=True)
OLLAMA = Dialect("ollama", ollama_body)
ALPAGE = Dialect("alpage", openai_body)
"""Alpage's own routes: errors as OpenAI's, which most clients can read."""

_BY_PREFIX: Mapping[str, Dialect] = {
    "/api": OLLAMA,
    "/v1": OPENAI,
    "/v1/adapters": ALPAGE,
    "/v1/apply-template": ALPAGE,
    "/v1/detokenize": ALPAGE,
    "/v1/messages": ANTHROPIC,
    "/v1/rerank": ALPAGE,
    "/v1/tokenize": ALPAGE,
}
"""The longest prefix of the path, ending where a part of it ends, decides."""


def dialect_of(path: str, headers: Headers) -> Dialect:
    """The dialect of a path, known or not.

    OpenAI's and Anthropic's clients share /v1; only the latter name a version.
    """
    fitting = [p for p in _BY_PREFIX if path == p or path.startswith(f"{p}/")]
    found = _BY_PREFIX[max(fitting, key=len)] if fitting else ALPAGE
    return ANTHROPIC if found is OPENAI and VERSION_HEADER in headers else found


def error_response(
    error: AlpageError, path: str, headers: Headers, call_id: str | None = None
) -> JSONResponse:
    """The whole answer to a request for `path`, with these headers, that failed."""
    dialect = dialect_of(path, headers)
    body = dialect.error_body(error)
    if dialect.tells_id:
        body["request_id"] = call_id
    return JSONResponse(body, status_of(error), headers=headers_of(error))
