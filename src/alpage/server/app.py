"""The HTTP application: routes, error answers, guards. It prints nothing and opens no socket."""

from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from alpage import __version__
from alpage.core.errors import AlpageError
from alpage.server.calls import Calls, Door, OpenDoor
from alpage.server.failures import on_alpage_error, on_bug, on_client_gone, on_http_error
from alpage.server.guard import Guard
from alpage.server.observe.observer import Observers
from alpage.server.openai.routes import REQUESTS, openai_routes
from alpage.server.openai.storage import ResponseStore
from alpage.server.pool import Pool
from alpage.server.running import ClientGoneError


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the application answers with and for.

    `local`: it listens on the loopback interface, so a Host header that names another machine is
    refused. `timeout`: seconds after which any answer ends. `log_prompts`: observers may see texts.
    `responses`: where answers are kept that clients may come back to; None keeps none.
    """

    pool: Pool
    local: bool
    door: Door = field(default_factory=OpenDoor)
    observers: Observers = field(default_factory=Observers)
    timeout: float | None = None
    log_prompts: bool = False
    responses: ResponseStore | None = field(default_factory=ResponseStore)


def create_app(around: Surroundings) -> FastAPI:
    """The application; whoever made what is around it closes that."""
    app = FastAPI(
        title="Alpage",
        version=__version__,
        # The pages that show the schema would load scripts from elsewhere; the schema stays.
        docs_url=None,
        redoc_url=None,
        # FastAPI's own would read the environment, and could send exceptions' texts elsewhere.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    pool = around.pool

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """That the server is up, and how much each model has to do."""
        loads = [{"id": model.card.name, "active_requests": model.active} for model in pool]
        return {"status": "ok", "version": __version__, "models": loads}

    app.include_router(openai_routes(pool, around.responses))
    app.add_exception_handler(AlpageError, on_alpage_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientGoneError, on_client_gone)
    app.add_exception_handler(ClientDisconnect, on_client_gone)
    app.add_exception_handler(Exception, on_bug)
    # The last one added is the outermost: what the guard refuses costs no look at a key.
    app.add_middleware(
        Calls,
        pool=pool,
        observers=around.observers,
        door=around.door,
        timeout=around.timeout,
        keeps_text=around.log_prompts,
    )
    app.add_middleware(Guard, local=around.local)
    _describe_bodies(app)
    return app


def _describe_bodies(app: FastAPI) -> None:
    """Add the request bodies, which the routes read themselves, to the schema."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        schema = plain()
        template = "#/components/schemas/{model}"
        wanted = [(model, "validation") for model in REQUESTS]
        _, found = models_json_schema(wanted, ref_template=template)  # type: ignore[arg-type]
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's own; bodies answer 400
        schema.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        return schema

    app.openapi = described  # type: ignore[method-assign]
