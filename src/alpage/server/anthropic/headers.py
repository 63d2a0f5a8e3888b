"""Headers and query parameters that Anthropic's clients send beside the body."""

import re

from starlette.datastructures import Headers
from starlette.requests import Request

from alpage.server.errors import RequestError

VERSION_HEADER = "anthropic-version"
_VERSIONS = ("2023-06-01", "2026-10-21")
"""The later one takes less in requests, of which nothing is taken here but sampling fields; answers
are the same. Sampling fields work with both."""
_BETA_HEADER = "anthropic-beta"
_WORKSPACE_HEADER = "anthropic-workspace-id"
_MAX_BETAS = 64

_BETAS = frozenset(
    {
        # What they allow is checked where it stands in the body.
        "advisor-tool", "cache-diagnosis", "code-execution", "compact", "computer-use",
        "context-management", "effort", "fallback-credit", "fast-mode", "files-api",
        "inline-tools", "interleaved-thinking", "mcp-client", "message-threads",
        "mid-conversation-output-config", "mid-conversation-system-clear-at",
        "mid-conversation-tool-changes", "pdfs", "server-side-fallback", "skills", "task-budgets",
        "thinking-binding-controls", "thinking-display-updates", "thinking-token-count",
        "user-profiles", "web-fetch", "web-search",
        # Always so here, or without a part in what is answered.
        "claude-code", "extended-cache-ttl", "fine-grained-tool-streaming", "message-batches",
        "model-context-window-exceeded", "output-128k", "output-300k", "prompt-caching",
        "structured-outputs", "token-counting", "token-efficient-tools",
    }
)  # fmt: skip
"""Names of beta features without their dates. One that would change an answer by itself, such as
context-1m, is not among them."""

_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")


def check_headers(request: Request) -> None:
    """A RequestError for a version or feature of the API that is not spoken here."""
    headers = request.headers
    version = headers.get(VERSION_HEADER)
    if version is not None and version not in _VERSIONS:
        raise RequestError(
            f"{VERSION_HEADER} is {version!r:.80}: supported is {' or '.join(_VERSIONS)}"
        )
    if _WORKSPACE_HEADER in headers:
        raise RequestError(f"{_WORKSPACE_HEADER}: this server has no workspaces; leave it out")
    _check_betas(headers)


def _check_betas(headers: Headers) -> None:
    names = [name.strip() for value in headers.getlist(_BETA_HEADER) for name in value.split(",")]
    if len(names) > _MAX_BETAS:
        raise RequestError(f"{_BETA_HEADER} has {len(names)} names; at most {_MAX_BETAS} are read")
    for name in names:
        if name and _DATE.sub("", name) not in _BETAS:
            raise RequestError(
                f"{_BETA_HEADER}: this server does not support {name!r:.80}; leave it out"
            )


def check_query(request: Request, *known: str) -> None:
    """A RequestError for a query parameter other than `known` and `beta`, which all may have."""
    for name in request.query_params:
        if name not in known and name != "beta":
            raise RequestError(
                f"there is no query parameter {name!r:.80} here", param=f"{name:.80}"
            )
