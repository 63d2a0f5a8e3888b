"""Who a request comes from, and what they may do: plain values that every part can hold."""

from dataclasses import dataclass
from typing import Literal

Scope = Literal["inference", "metrics", "admin"]
"""What a key is for; `admin` includes the others."""

SCOPES: tuple[Scope, ...] = ("inference", "metrics", "admin")


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one key may use, each at least 1; None is no limit. Days are those of UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Tokens of prompts and answers together, as those of a day."""
    tokens_per_day: int | None = None
    concurrent: int | None = None
    """Requests under way at the same time."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One who asks: a key's owner, or anyone where the server has no keys."""

    key: str | None
    """The key's public id; None where no key is configured."""
    name: str
    tenant: str
    """Requests of one tenant share cached beginnings of prompts; others never do."""
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    """Names of the models that may be asked; None for all."""
    limits: Limits = Limits()
    weight: float = 1.0
    """Share of the machine beside other tenants' under load."""
    priority: int = 0
    """Where the scheduler goes by priority: larger is earlier."""

    def may(self, scope: Scope) -> bool:
        """Whether `scope`, or `admin`, is among the scopes."""
        return scope in self.scopes or "admin" in self.scopes

    def may_ask(self, model: str) -> bool:
        """Whether the model of this name may be asked."""
        return self.models is None or model in self.models


NOBODY = Caller(key=None, name="nobody", tenant="", scopes=frozenset(), models=frozenset())
"""Who shows no key where keys are asked for; there are paths for which that does not matter."""

ANYONE = Caller(key=None, name="anyone", tenant="", scopes=frozenset(SCOPES))
"""The caller of every request where no key is configured."""
