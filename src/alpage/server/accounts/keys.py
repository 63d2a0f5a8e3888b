"""Keys: made, listed, revoked and rotated in the database.

A secret is `alp_ID_RANDOM`, shown once. The database keeps its SHA-256: the random part has 256
bits, which nobody finds by trying, so that a slow hash, made for passwords that people choose,
would only cost each request its time.
"""

import base64
import hashlib
import json
import math
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import Row, insert, select, update

from alpage.core.errors import NotFoundError, StorageError, UsageError
from alpage.server.accounts.caller import SCOPES, Caller, Limits, Scope
from alpage.server.accounts.database import Database
from alpage.server.accounts.tables import KEYS

KeyState = Literal["active", "expired", "revoked"]

PREFIX = "alp"
MOST_SECRET = 200
"""Characters of what can be a secret at all."""

_NAME = 64
_MODEL = 200
_MODELS = 100
_LARGEST = 2**53  # of limits; JSON readers keep it exact
_PRIORITIES = 1000


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its secret. Times are seconds since 1970."""

    id: str
    name: str
    tenant: str
    scopes: frozenset[Scope]
    models: frozenset[str] | None
    limits: Limits
    weight: float
    priority: int
    created: float
    expires: float | None = None
    revoked: float | None = None

    def state(self, now: float) -> KeyState:
        """What the key is at the time `now`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def caller(self) -> Caller:
        """Who asks with this key."""
        return Caller(
            key=self.id,
            name=self.name,
            tenant=self.tenant,
            scopes=self.scopes,
            models=self.models,
            limits=self.limits,
            weight=self.weight,
            priority=self.priority,
        )


def id_of(secret: str) -> str:
    """The public id in a secret; empty where it has none."""
    kind, _, rest = secret.partition("_")
    return rest.partition("_")[0] if kind == PREFIX else ""


def digest(secret: str) -> str:
    """What the database keeps of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class KeyStore:
    """The keys of one database. StorageError where it cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        *,
        tenant: str | None = None,
        scopes: Iterable[Scope] = ("inference",),
        models: Iterable[str] | None = None,
        limits: Limits | None = None,
        weight: float = 1.0,
        priority: int = 0,
        expires: float | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, which cannot be had again; UsageError for what is wrong.

        Without `tenant`, the key is a tenant of its own.
        """
        now = time.time()
        key_id = _random(10)
        key = Key(
            id=key_id,
            name=_checked_text("name", name, _NAME),
            tenant=key_id if tenant is None else _checked_text("tenant", tenant, _NAME),
            scopes=_checked_scopes(scopes),
            models=None if models is None else _checked_models(models),
            limits=_checked_limits(limits or Limits()),
            weight=_checked_weight(weight),
            priority=_checked_priority(priority),
            created=now,
            expires=expires,
        )
        if expires is not None and not now < expires < math.inf:
            raise UsageError("a key has to expire in the future")
        secret = _secret(key.id)
        row = asdict(key) | asdict(key.limits) | {"secret_sha256": digest(secret)}
        del row["limits"]
        row["scopes"] = json.dumps(sorted(key.scopes))
        row["models"] = None if key.models is None else json.dumps(sorted(key.models))
        with self._database.writing() as connection:
            connection.execute(insert(KEYS).values(row))
        return key, secret

    def revoke(self, key_id: str) -> Key:
        """End a key for good; NotFoundError where there is none. Again changes nothing."""
        with self._database.writing() as connection:
            unrevoked = (KEYS.c.id == key_id) & KEYS.c.revoked.is_(None)
            connection.execute(update(KEYS).where(unrevoked).values(revoked=time.time()))
        return self.get(key_id)

    def rotate(self, key_id: str) -> tuple[Key, str]:
        """Give an active key a new secret, which ends the old one."""
        key = self.get(key_id)
        if (state := key.state(time.time())) != "active":
            raise UsageError(f"the key {key_id} is {state}: make a new one with alpage keys create")
        secret = _secret(key_id)
        with self._database.writing() as connection:
            values = {"secret_sha256": digest(secret)}
            connection.execute(update(KEYS).where(KEYS.c.id == key_id).values(values))
        return key, secret

    def get(self, key_id: str) -> Key:
        """One key; NotFoundError where there is none."""
        with self._database.reading() as connection:
            row = connection.execute(select(KEYS).where(KEYS.c.id == key_id)).first()
        if row is None:
            # Somebody may have given a whole secret, of which no more than the id is shown.
            shown, hint = key_id[:_NAME], ""
            if inside := id_of(key_id):
                shown, hint = f"{PREFIX}_{inside}_...", f"; of that secret, the id is {inside}"
            raise NotFoundError(f"no key {shown!r}: alpage keys list shows those there are{hint}")
        return key_of(row)

    def all(self) -> list[Key]:
        """Every key, the oldest first."""
        return [key_of(row) for row in self.rows()]

    def rows(self) -> list[Row[tuple[object, ...]]]:
        """Every key as the database has it: equal while nothing has changed."""
        with self._database.reading() as connection:
            return list(connection.execute(select(KEYS).order_by(KEYS.c.created, KEYS.c.id)))


def key_of(row: Row[tuple[object, ...]]) -> Key:
    """A key out of its row; StorageError where that is not what Alpage writes."""
    try:
        scopes: list[Scope] = json.loads(row.scopes)
        models = None if row.models is None else json.loads(row.models)
        if not isinstance(scopes, list) or not isinstance(models, list | None):
            raise ValueError("not a list")
        return _key(row, frozenset(scopes), None if models is None else frozenset(models))
    except (TypeError, ValueError) as error:
        raise StorageError(f"the key {row.id} in the database is damaged: {error}") from error


def _key(
    row: Row[tuple[object, ...]], scopes: frozenset[Scope], models: frozenset[str] | None
) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        tenant=row.tenant,
        scopes=scopes,
        models=models,
        limits=Limits(
            row.requests_per_minute, row.tokens_per_minute, row.tokens_per_day, row.concurrent
        ),
        weight=row.weight,
        priority=row.priority,
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
    )


def _random(length: int) -> str:
    """`length` random bytes as small letters and digits."""
    return base64.b32encode(secrets.token_bytes(length)).decode().rstrip("=").lower()


def _secret(key_id: str) -> str:
    return f"{PREFIX}_{key_id}_{_random(32)}"


def _checked_text(what: str, text: str, most: int) -> str:
    if not text.strip() or not text.isprintable() or len(text) > most:
        shown = text[:most] + ("..." if len(text) > most else "")
        raise UsageError(f"a {what} has 1 to {most} printable characters, not {shown!r}")
    return text


def _checked_scopes(scopes: Iterable[Scope]) -> frozenset[Scope]:
    chosen = frozenset(scopes)
    if not chosen or chosen - set(SCOPES):
        wrong = ", ".join(sorted(chosen - set(SCOPES))) or "none"
        raise UsageError(f"scopes are {', '.join(SCOPES)}, at least one, not {wrong}")
    return chosen


def _checked_models(models: Iterable[str]) -> frozenset[str]:
    chosen = frozenset(_checked_text("model's name", model, _MODEL) for model in models)
    if not 1 <= len(chosen) <= _MODELS:
        raise UsageError(f"a key names 1 to {_MODELS} models, not {len(chosen)}")
    return chosen


def _checked_limits(limits: Limits) -> Limits:
    for name, value in asdict(limits).items():
        if value is not None and not 1 <= value <= _LARGEST:
            raise UsageError(f"{name} must be between 1 and {_LARGEST:,}, not {value}")
    return limits


def _checked_weight(weight: float) -> float:
    if not 0 < weight < math.inf:
        raise UsageError(f"a weight must be above 0, not {weight}")
    return weight


def _checked_priority(priority: int) -> int:
    if not -_PRIORITIES <= priority <= _PRIORITIES:
        raise UsageError(f"a priority is between -{_PRIORITIES} and {_PRIORITIES}, not {priority}")
    return priority
