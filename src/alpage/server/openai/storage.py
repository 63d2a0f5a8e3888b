"""Responses that clients can come back to: in memory, bounded, each tenant for itself."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_OVERHEAD = 512
"""Bytes that Python adds to a stored response, about."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A response and the items that it answered, both as JSON."""

    response: bytes
    items: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.response) + len(self.items) + _OVERHEAD


class ResponseStore:
    """Keeps responses until `seconds` after their last use, or until the room is needed.

    When more than `limit_bytes` are kept, the tenant with the most loses what it has not used for
    longest, so that nobody drives out what others keep by keeping much. Only the event loop uses
    it.
    """

    def __init__(
        self,
        limit_bytes: int = 64 << 20,
        seconds: float = 86_400,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.seconds = seconds
        self._clock = clock
        # Of each tenant: what was kept under an id, and until when; the longest unused first.
        self._kept: dict[str, OrderedDict[str, tuple[Stored, float]]] = {}
        self._sizes: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Bytes kept."""
        return sum(self._sizes.values())

    def put(self, tenant: str, name: str, stored: Stored) -> bool:
        """Keep a response under its id; False if it alone is more than there is room for."""
        self._forget_old()
        if stored.size > self.limit_bytes:
            return False
        self.delete(tenant, name)
        own = self._kept.setdefault(tenant, OrderedDict())
        own[name] = (stored, self._clock() + self.seconds)
        self._sizes[tenant] = self._sizes.get(tenant, 0) + stored.size
        while self.size > self.limit_bytes:
            # What was just put stays: it is not more than there is room for.
            others = [t for t in self._sizes if t != tenant or len(own) > 1]
            heaviest = max(others, key=self._sizes.__getitem__)
            self.delete(heaviest, next(iter(self._kept[heaviest])))
        return True

    def get(self, tenant: str, name: str) -> Stored | None:
        """What the tenant keeps under that id, which is now its last used."""
        self._forget_old()
        own = self._kept.get(tenant)
        if own is None or name not in own:
            return None
        stored, _ = own[name]
        own[name] = (stored, self._clock() + self.seconds)
        own.move_to_end(name)
        return stored

    def delete(self, tenant: str, name: str) -> bool:
        """Forget a response; whether there was one."""
        own = self._kept.get(tenant, OrderedDict())
        if name not in own:
            return False
        stored, _ = own.pop(name)
        self._sizes[tenant] -= stored.size
        if not own:
            del self._kept[tenant], self._sizes[tenant]
        return True

    def _forget_old(self) -> None:
        now = self._clock()
        for tenant in list(self._kept):
            own = self._kept[tenant]
            old = []
            for name, (_, until) in own.items():
                if until > now:
                    break
                old.append(name)
            for name in old:
                self.delete(tenant, name)
