"""What those who watch a server ask: whether it is up, and whether it can answer."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from alpage import __version__
from alpage.server.accounts.caller import ANYONE
from alpage.server.pool import Pool

_UNAVAILABLE = 503


def health_routes(pool: Pool) -> APIRouter:
    """The routes, for these models. A server that is shutting down accepts no connection at all."""
    routes = APIRouter(tags=["alpage"])

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """That the server is up, and how much each model has to do."""
        loads = [{"id": model.card.name, "active_requests": model.active} for model in pool]
        return {"status": "ok", "version": __version__, "models": loads}

    @routes.get("/ready")
    async def ready() -> JSONResponse:
        """Whether a model can answer, or be loaded to answer; 503 with what is missing."""
        offered = pool.cards(ANYONE)
        if not offered:
            missing = ["no model is offered"]
            return JSONResponse({"status": "not ready", "missing": missing}, _UNAVAILABLE)
        loaded = [card.name for card in offered if card.loaded]
        return JSONResponse({"status": "ready", "loaded": loaded, "offered": len(offered)})

    return routes
