"""The HTTP application: routes, error answers, guard. It prints nothing and opens no socket."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from alpage import __version__
from alpage.core.errors import AlpageError
from alpage.server.guard import Guard
from alpage.server.openai.errors import on_alpage_error, on_bug, on_http_error
from alpage.server.openai.routes import REQUESTS, openai_routes
from alpage.server.page import page_routes
from alpage.server.running import ClientGoneError
from alpage.server.served import ServedModels

_CLIENT_GONE = 499


def create_app(models: ServedModels, *, local: bool) -> FastAPI:
    """The application for these models; whoever loaded them closes them.

    `local`: it listens on the loopback interface, so a Host header that names another machine
    is refused.
    """
    app = FastAPI(
        title="Alpage",
        version=__version__,
        # The pages that show the schema would load scripts from elsewhere; the schema stays.
        docs_url=None,
        redoc_url=None,
        # FastAPI's own would read the environment, and could send exceptions' texts elsewhere.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """That the server is up, and how much each model has to do."""
        loads = [{"id": model.name, "active_requests": model.active} for model in models]
        return {"status": "ok", "version": __version__, "models": loads}

    app.include_router(openai_routes(models))
    app.include_router(page_routes())
    app.add_exception_handler(AlpageError, on_alpage_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientGoneError, _nobody)
    app.add_exception_handler(ClientDisconnect, _nobody)
    app.add_exception_handler(Exception, on_bug)
    app.add_middleware(Guard, local=local)
    _describe_bodies(app)
    return app


async def _nobody(_: Request, error: Exception) -> Response:
    """For a client that has gone: only logs could see this status, which is nginx's for it."""
    return Response(status_code=_CLIENT_GONE)


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
