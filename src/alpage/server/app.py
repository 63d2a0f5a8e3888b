"""The HTTP application: routes, error answers, guards. It prints nothing and opens no socket."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from alpage import __version__
from alpage.core.errors import AlpageError
from alpage.server.adapters import REQUESTS as ADAPTER_REQUESTS
from alpage.server.adapters import adapter_routes
from alpage.server.anthropic.routes import REQUESTS as ANTHROPIC_REQUESTS
from alpage.server.anthropic.routes import anthropic_routes
from alpage.server.calls import Calls, Door, OpenDoor
from alpage.server.failures import on_alpage_error, on_bug, on_client_gone, on_http_error
from alpage.server.guard import Access, Guard
from alpage.server.life import Life, life_routes
from alpage.server.observe.metrics import Metrics, metrics_routes
from alpage.server.observe.observer import Observers
from alpage.server.ollama.routes import REQUESTS as OLLAMA_REQUESTS
from alpage.server.ollama.routes import ollama_routes
from alpage.server.openai.routes import REQUESTS as OPENAI_REQUESTS
from alpage.server.openai.routes import openai_routes
from alpage.server.openai.storage import ResponseStore
from alpage.server.page import page_routes
from alpage.server.pool import Pool
from alpage.server.running import ClientGoneError
from alpage.server.text.routes import REQUESTS as TEXT_REQUESTS
from alpage.server.text.routes import text_routes

_REQUESTS = (
    *OPENAI_REQUESTS,
    *ANTHROPIC_REQUESTS,
    *OLLAMA_REQUESTS,
    *TEXT_REQUESTS,
    *ADAPTER_REQUESTS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the application answers with and for, and how the server around it ends.

    `local`: it listens on the loopback interface, so a Host header that names another machine is
    refused; `hosts` and `origins` as in `guard.Access`. `timeout`: seconds after which any answer
    ends; `grace`: those that answers under way have at the server's end; `stall`: those that a
    client may read nothing of what waits for it. `log_prompts`: observers may see texts. `metrics`
    are shown at /metrics, and have to be among the `observers`.
    `certificate`: files of a TLS certificate, with those above it, and of its key. `home`: where
    clients pull models to; None for the settings' model cache. `responses`: where answers are kept
    that clients may come back to; None keeps none.
    """

    pool: Pool
    local: bool
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    door: Door = field(default_factory=OpenDoor)
    observers: Observers = field(default_factory=Observers)
    metrics: Metrics | None = None
    life: Life = field(default_factory=Life)
    timeout: float | None = None
    grace: float = 5.0
    stall: float = 30.0
    log_prompts: bool = False
    certificate: tuple[Path, Path] | None = None
    home: Path | None = None
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

    app.include_router(life_routes(pool, around.life))
    if around.metrics is not None:
        app.include_router(metrics_routes(around.metrics))
    app.include_router(anthropic_routes(pool))  # before OpenAI's, which has the same paths
    app.include_router(openai_routes(pool, around.responses))
    app.include_router(ollama_routes(pool, around.home))
    app.include_router(text_routes())
    app.include_router(adapter_routes(pool))
    app.include_router(page_routes())
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
    access = Access.of(local=around.local, origins=around.origins, hosts=around.hosts)
    app.add_middleware(Guard, access=access, life=around.life)
    _describe_bodies(app)
    return app


def _describe_bodies(app: FastAPI) -> None:
    """Add the request bodies, which the routes read themselves, to the schema."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        schema = plain()
        template = "#/components/schemas/{model}"
        wanted = [(model, "validation") for model in _REQUESTS]
        _, found = models_json_schema(wanted, ref_template=template)  # type: ignore[arg-type]
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's own; bodies answer 400
        schema.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        return schema

    app.openapi = described  # type: ignore[method-assign]
