"""What those who watch a server ask: whether it is up, and whether it can answer."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from alpage import __version__
from alpage.server.accounts.caller import ANYONE
from alpage.server.backends.local import LocalModel
from alpage.server.pool import Pool

_UNAVAILABLE = 503


def health_routes(pool: Pool) -> APIRouter:
    """The routes, for these models. A server that is shutting down accepts no connection at all."""
    routes = APIRouter(tags=["alpage"])

    @routes.get("/health")
    async def health() -> JSONResponse:
        """That the server is up, and how much each model has to do; 503 where one has died."""
        loads = [{"id": model.card.name, "active_requests": model.active} for model in pool]
        answer: dict[str, Any] = {"status": "ok", "version": __version__, "models": loads}
        if dead := dead_models(pool):
            return JSONResponse(answer | {"status": "failed", "dead": dead}, _UNAVAILABLE)
        return JSONResponse(answer)

    @routes.get("/ready")
    async def ready() -> JSONResponse:
        """Whether a model can answer, or be loaded to answer; 503 with what is missing.

        It needs no key, so it tells how many models there are and not which.
        """
        offered, dead = pool.cards(ANYONE), set(dead_models(pool))
        able = [card for card in offered if not {card.name, card.parent} & dead]
        if not able:
            missing = f"the engines of {len(dead)} models" if dead else "a model to offer"
            return JSONResponse({"status": "not ready", "missing": missing}, _UNAVAILABLE)
        loaded = sum(card.loaded for card in able)
        return JSONResponse({"status": "ready", "loaded": loaded, "offered": len(offered)})

    return routes


def dead_models(pool: Pool) -> list[str]:
    """Names of the loaded models whose engine's thread has ended: they answer nothing any more."""
    local = [model for model in pool if isinstance(model, LocalModel)]
    return [model.card.name for model in local if not model.llm.engine.alive]
