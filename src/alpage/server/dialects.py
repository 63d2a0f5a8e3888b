"""Which dialect a path belongs to, and how that dialect says what went wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from alpage.core.errors import AlpageError
from alpage.server.errors import headers_of, status_of
from alpage.server.ollama.errors import error_body as ollama_body
from alpage.server.openai.errors import error_body as openai_body

ErrorBody = Callable[[AlpageError], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A family of clients."""

    name: str
    error_body: ErrorBody


OPENAI = Dialect("openai", openai_body)
OLLAMA = Dialect("ollama", ollama_body)
ALPAGE = Dialect("alpage", openai_body)
"""Alpage's own routes: errors as OpenAI's, which most clients can read."""

_BY_PREFIX: Mapping[str, Dialect] = {
    "/api": OLLAMA,
    "/v1": OPENAI,
    "/v1/apply-template": ALPAGE,
    "/v1/detokenize": ALPAGE,
    "/v1/rerank": ALPAGE,
    "/v1/tokenize": ALPAGE,
}
"""The longest prefix of the path, ending where a part of it ends, decides."""


def dialect_of(path: str) -> Dialect:
    """The dialect of a path, known or not."""
    fitting = [p for p in _BY_PREFIX if path == p or path.startswith(f"{p}/")]
    return _BY_PREFIX[max(fitting, key=len)] if fitting else ALPAGE


def error_response(error: AlpageError, path: str) -> JSONResponse:
    """The whole answer to a request for `path` that failed."""
    body = dialect_of(path).error_body(error)
    return JSONResponse(body, status_of(error), headers=headers_of(error))
