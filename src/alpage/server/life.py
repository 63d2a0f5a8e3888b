"""Whether a server takes requests, how many it has, and the routes that say so."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from alpage import __version__
from alpage.server.accounts.caller import ANYONE
from alpage.server.backends.local import LocalModel
from alpage.server.backends.protocol import Remote, ServedModel
from alpage.server.call import call_of
from alpage.server.errors import RETRY_SECONDS, RequestError
from alpage.server.pool import Pool


class Life:
    """What one server is doing as a whole. Only the event loop changes it.

    `draining`: it is about to end, finishes what it has, and takes nothing more. `under_way`:
    requests that may still have an answer to come. `body_bytes`: what their bodies hold in memory.
    """

    def __init__(self, most_requests: int = 4096, most_body_bytes: int = 512 << 20) -> None:
        self.draining = False
        self.under_way = 0
        self.body_bytes = 0
        self._most_requests = most_requests
        self._most_body_bytes = most_body_bytes

    def enter(self) -> None:
        """One request more, or a RequestError with status 503 that says why not."""
        if self.draining:
            raise RequestError(
                "the server is shutting down; ask again later", status=503, code="shutting_down"
            )
        if self.under_way >= self._most_requests:
            raise self._full(f"{self.under_way} requests are under way")
        self.under_way += 1

    def leave(self, body_bytes: int) -> None:
        """One request less, with its body."""
        self.under_way -= 1
        self.body_bytes -= body_bytes

    def take(self, size: int) -> None:
        """Room for so many bytes of a body; a RequestError with status 503 where there is none."""
        if self.body_bytes + size > self._most_body_bytes:
            raise self._full(f"the bodies of requests under way take {self.body_bytes:,} bytes")
        self.body_bytes += size

    def _full(self, why: str) -> RequestError:
        return RequestError(
            f"the server is full: {why}; ask again later",
            status=503,
            code="server_full",
            retry_after=RETRY_SECONDS,
        )


def life_routes(pool: Pool, life: Life) -> APIRouter:
    """Routes for those who watch the server; nobody needs a key for them."""
    routes = APIRouter(tags=["server"])

    @routes.get("/health")
    async def health(request: Request) -> JSONResponse:
        """That the server is up; 503 if an engine has died.

        With how much each loaded model has to do, as far as the caller may ask it.
        """
        caller = call_of(request).caller
        loads = [_load(model) for model in pool if caller.may_ask(model.card.name)]
        answer: dict[str, Any] = {"status": "ok", "version": __version__, "models": loads}
        if dead := dead_models(pool):
            named = [name for name in dead if caller.may_ask(name)]
            return JSONResponse(answer | {"status": "failed", "dead": named}, 503)
        return JSONResponse(answer)

    @routes.get("/ready")
    async def ready() -> JSONResponse:
        """Whether it takes requests: 503 while it ends, and where no model can be asked."""
        if life.draining:
            return JSONResponse({"status": "draining"}, 503)
        dead = set(dead_models(pool))
        offered = pool.cards(ANYONE)
        if offered and all({card.name, card.parent} & dead for card in offered):
            return JSONResponse({"status": "failed", "missing": "an engine that lives"}, 503)
        if not offered:
            return JSONResponse({"status": "empty", "missing": "a model to offer"}, 503)
        return JSONResponse({"status": "ready"})

    return routes


def dead_models(pool: Pool) -> list[str]:
    """Names of the loaded models whose engine's thread has ended: they answer nothing any more."""
    local = [model for model in pool if isinstance(model, LocalModel)]
    return [model.card.name for model in local if not model.llm.engine.alive]


def _load(model: ServedModel) -> dict[str, Any]:
    found: dict[str, Any] = {"id": model.card.name, "active_requests": model.active}
    if isinstance(model, Remote):
        found["upstreams"] = model.report()
    return found
