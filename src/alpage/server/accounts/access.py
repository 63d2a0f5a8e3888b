"""Who asks, by the secret they send: checked in memory, against keys read a second ago at most."""

import contextlib
import hmac
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from alpage.core.errors import StorageError, UserError
from alpage.server.accounts.caller import ANYONE, Caller
from alpage.server.accounts.keys import MOST_SECRET, Key, KeyStore, digest, id_of, key_of

Reason = Literal["missing", "unknown", "expired", "revoked"]

READ_SECONDS = 1.0
"""How often keys are read again: when a revocation takes effect in every process."""
STALE_SECONDS = 60.0
"""How long keys that were read hold where the database cannot be reached."""

_LOG = logging.getLogger(__name__)
_NOBODY = digest("")
_ADVICE: dict[Reason, str] = {
    "missing": "this server asks for a key: send one as `Authorization: Bearer alp_...`",
    "unknown": "this key is not one of this server's: check that it is whole, or ask for another",
    "expired": "this key has expired: ask for another",
    "revoked": "this key was revoked: ask for another",
}


class AccessError(UserError):
    """A request without a key that is good; `reason` says what is wrong with it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(_ADVICE[reason])
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class _Known:
    """A key as it is checked."""

    key: Key
    secret_sha256: str
    caller: Caller


class Access:
    """Checks secrets.

    A thread reads the keys again every second, so that no request waits for the database, and a
    flood of wrong keys costs it nothing.

    `wall` gives seconds since 1970, `clock` seconds that never go back.
    """

    def __init__(
        self,
        keys: KeyStore,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys, self._wall, self._clock = keys, wall, clock
        self._rows: list[object] | None = None
        self._known: dict[str, _Known] = {}
        self._read_at = clock()
        self._trouble = ""
        self._reading = threading.Lock()
        self._end = threading.Event()
        self.refresh()
        self._thread = threading.Thread(target=self._follow, name="alpage-keys", daemon=True)
        self._thread.start()

    @property
    def has_keys(self) -> bool:
        """Whether secrets are asked for: a server whose last key was revoked stays closed."""
        return bool(self._known)

    def authenticate(self, secret: str | None) -> Caller:
        """Who sends this secret; ANYONE where there is no key at all. Never waits.

        AccessError where it is not good; StorageError where the keys could not be read for long.
        """
        if self._clock() - self._read_at > STALE_SECONDS:
            raise StorageError(f"keys cannot be checked now: {self._trouble or 'not read'}")
        if not self._known:
            return ANYONE
        if not secret:
            raise AccessError("missing")
        # The same work whether the id is known or not, so that ids cannot be found by timing.
        sent = digest(secret[:MOST_SECRET])
        known = self._known.get(id_of(secret[:MOST_SECRET]))
        good = hmac.compare_digest(sent, known.secret_sha256 if known else _NOBODY)
        if not good or known is None or len(secret) > MOST_SECRET:
            raise AccessError("unknown")
        state = known.key.state(self._wall())
        if state != "active":
            raise AccessError(state)
        return known.caller

    def refresh(self) -> None:
        """Read the keys now; StorageError where that fails."""
        with self._reading:
            began = self._clock()
            rows = self._keys.rows()
            if rows != self._rows:
                found = [(key_of(row), row.secret_sha256) for row in rows]
                self._known = {key.id: _Known(key, sha, key.caller()) for key, sha in found}
                self._rows = list(rows)
            self._read_at, self._trouble = began, ""

    def close(self) -> None:
        """Stop reading."""
        self._end.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._end.wait(READ_SECONDS):
            told = self._trouble
            with contextlib.suppress(StorageError):
                self._read()
            if self._trouble and not told:
                _LOG.warning("keys could not be read again: %s", self._trouble)
            elif told and not self._trouble:
                _LOG.info("keys can be read again")

    def _read(self) -> None:
        try:
            self.refresh()
        except Exception as error:  # the thread has to live on
            self._trouble = str(error)
