"""All of it in one: what a server opens once."""

import contextlib
import datetime
from collections.abc import Iterable

from alpage.core.errors import StorageError
from alpage.server.accounts.access import Access
from alpage.server.accounts.caller import Caller, Limits, Scope
from alpage.server.accounts.database import open_database
from alpage.server.accounts.keys import Key, KeyStore
from alpage.server.accounts.quotas import Quotas
from alpage.server.accounts.usage import Usage


class Accounts:
    """Keys, quotas and usage of the database at `url`; `with` closes it.

    Raises what `open_database` does. Use from any thread.
    """

    def __init__(self, url: str) -> None:
        self._database = open_database(url)
        try:
            self._keys = KeyStore(self._database)
            self.usage = Usage(self._database)
            today = datetime.datetime.now(datetime.UTC).date()
            self.quotas = Quotas(used_today=self.usage.tokens_of(today))
            self._access = Access(self._keys)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> "Accounts":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def shown(self) -> str:
        """The database's address, without its password."""
        return self._database.shown

    @property
    def has_keys(self) -> bool:
        """Whether there is any key, revoked and expired ones too; a second old at most."""
        return self._access.has_keys

    def authenticate(self, secret: str | None) -> Caller:
        """Who sends this secret; ANYONE where there is no key at all. Never waits.

        AccessError with a `reason`, or StorageError where the database was away for a minute.
        """
        return self._access.authenticate(secret)

    def create_key(
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
        """A new key and its secret, which cannot be had again; good at once in this process."""
        made = self._keys.create(
            name,
            tenant=tenant,
            scopes=scopes,
            models=models,
            limits=limits,
            weight=weight,
            priority=priority,
            expires=expires,
        )
        self._read_again()
        return made

    def revoke_key(self, key_id: str) -> Key:
        """End a key, at once in this process; NotFoundError where there is none."""
        key = self._keys.revoke(key_id)
        self._read_again()
        return key

    def rotate_key(self, key_id: str) -> tuple[Key, str]:
        """Give a key a new secret, which ends the old one; UsageError where it is not active."""
        made = self._keys.rotate(key_id)
        self._read_again()
        return made

    def keys(self) -> list[Key]:
        """Every key, the oldest first."""
        return self._keys.all()

    def _read_again(self) -> None:
        # Where this fails, what was done is done: it is read within a second like any other.
        with contextlib.suppress(StorageError):
            self._access.refresh()

    def close(self) -> None:
        """Write what waits of the usage, for ten seconds at most, and close the database."""
        self.usage.close()
        self._access.close()
        self._database.close()
