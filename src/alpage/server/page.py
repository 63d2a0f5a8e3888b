"""The chat page: its files as they are, under headers that let it load nothing else."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from alpage.web.files import INDEX, PageFile, page_files

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    # Kept, but asked about at each use: an update of Alpage shows at the next visit, and one of
    # its modules never meets another version's.
    "cache-control": "no-cache",
}
_METHODS = ["GET", "HEAD"]


def page_routes() -> APIRouter:
    """`/` and `/static/...`; none of them is part of the API or of its schema."""
    routes = APIRouter(include_in_schema=False)
    files = page_files()

    @routes.api_route("/", methods=_METHODS)
    async def page(request: Request) -> Response:
        """The page for browsers, a sign of life for everything else."""
        if not _wants_html(request.headers.get("accept", "")):
            headers = {**_HEADERS, "vary": "accept"}
            return Response("Alpage is running", headers=headers, media_type="text/plain")
        return _answer(request, files[INDEX], vary="accept")

    @routes.api_route("/static/{path:path}", methods=_METHODS)
    async def static(request: Request, path: str) -> Response:
        """One of the page's files."""
        found = files.get(path)
        if found is None:
            text = "the page has no such file"
            return Response(text, 404, headers=_HEADERS, media_type="text/plain")
        return _answer(request, found)

    return routes


def _answer(request: Request, file: PageFile, **more: str) -> Response:
    headers = {**_HEADERS, "etag": file.etag, **more}
    if _has(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


def _has(condition: str, etag: str) -> bool:
    """Whether an If-None-Match header names this content, weakly or not."""
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in condition.split(","))


def _wants_html(accept: str) -> bool:
    """Whether an Accept header names HTML; `*/*`, which programs send, does not."""
    for kind in accept.lower().split(","):
        name, _, parameters = kind.partition(";")
        if name.strip() in ("text/html", "application/xhtml+xml"):
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
