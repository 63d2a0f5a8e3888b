"""Callers by a header: who is who, where a test needs several tenants."""

from collections.abc import Mapping

from starlette.datastructures import Headers

from alpage.server.accounts.caller import Caller
from alpage.server.call import Call


class DoorByName:
    """Whoever names a tenant in `x-tenant` is of it, with the weight that the test gives it.

    The tenant `operator` has a key of the scope admin.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights or {}

    async def enter(self, call: Call, path: str, headers: Headers) -> None:
        name = headers.get("x-tenant", "")
        call.caller = Caller(
            key=f"key-{name}",
            name=name,
            tenant=name,
            scopes=frozenset({"admin" if name == "operator" else "inference"}),
            weight=self._weights.get(name, 1.0),
        )

    def leave(self, call: Call) -> None:
        return
