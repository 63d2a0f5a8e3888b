"""Adapters that an operator brings and takes while the server runs. Errors have OpenAI's shape."""

import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request

from alpage.server.bodies import described
from alpage.server.call import Call, call_of
from alpage.server.errors import RequestError
from alpage.server.offers import AdapterOffer
from alpage.server.openai.fields import Body
from alpage.server.openai.reading import read
from alpage.server.pool import Pool


class AdapterRequest(Body):
    """The body of POST /v1/adapters: a folder on the server, in PEFT's layout."""

    name: Annotated[str, Field(pattern=r"^[\w.:/@+-]{1,200}$")]
    folder: Annotated[str, Field(min_length=1, max_length=4096)]
    base: str


REQUESTS: tuple[type[BaseModel], ...] = (AdapterRequest,)


def adapter_routes(pool: Pool) -> APIRouter:
    """The routes, for keys of the scope admin."""
    routes = APIRouter(prefix="/v1", tags=["alpage"])

    @routes.post("/adapters", openapi_extra=described(AdapterRequest))
    async def add(request: Request) -> dict[str, Any]:
        """Load an adapter and offer it as a model."""
        call = _admin(request)
        asked = await read(request, AdapterRequest)
        if "\0" in asked.folder:
            raise RequestError("a folder's name has no character 0", param="folder")
        offer = AdapterOffer(asked.name, asked.base, Path(asked.folder), int(time.time()))
        card = await pool.add_adapter(offer, call.caller)
        return {"id": card.name, "object": "adapter", "parent": card.parent}

    @routes.delete("/adapters/{name:path}")
    async def remove(name: str, request: Request) -> dict[str, Any]:
        """Offer an adapter no more."""
        await pool.remove_adapter(name, _admin(request).caller)
        return {"id": name, "object": "adapter", "deleted": True}

    return routes


def _admin(request: Request) -> Call:
    call = call_of(request)
    if not call.caller.may("admin"):
        raise RequestError(
            "this needs a key of the scope admin", status=403, code="insufficient_scope"
        )
    return call
