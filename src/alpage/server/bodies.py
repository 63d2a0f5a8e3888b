"""Bodies that routes read themselves, off the event loop, in the schema of the API."""

from typing import Any

from pydantic import BaseModel


def described(model: type[BaseModel]) -> dict[str, Any]:
    """What a route's entry in the schema says about its body."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
