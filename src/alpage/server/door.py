"""Keys, quotas and records of usage, joined to calls: who may come in, and what it costs them."""

import asyncio
import logging
import time

from starlette.datastructures import Headers

from alpage.core.errors import AlpageError
from alpage.server.accounts import AccessError, Accounts, Admission, QuotaError, UsageRecord
from alpage.server.accounts.caller import NOBODY, Scope
from alpage.server.accounts.quotas import UNLIMITED
from alpage.server.call import Call
from alpage.server.errors import RequestError
from alpage.server.observe.metrics import REQUIRED_SCOPE

OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
"""Paths for which nobody needs a key; without one they tell nothing of models."""
_OPEN_FOLDER = "/static/"
_SCOPES: dict[str, Scope] = {"/metrics": REQUIRED_SCOPE}
"""Paths that are not for `inference`. What is for `admin` alone, routes check themselves."""
_COMMIT_SECONDS = 5.0
"""How long an answer waits for its record to be on the disk, before it is told as complete."""
_LOG = logging.getLogger("alpage.server")


class KeyDoor:
    """Lets in who shows a good key, within that key's limits; anyone, where there are no keys."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._admissions: dict[str, Admission] = {}

    async def enter(self, call: Call, path: str, headers: Headers) -> None:
        """Set the call's caller and account, or raise why it is refused."""
        try:
            call.caller = self._accounts.authenticate(secret_of(headers))
        except AlpageError as error:
            if path in OPEN or path.startswith(_OPEN_FOLDER):
                call.caller = NOBODY
                return
            if not isinstance(error, AccessError):
                raise
            raise RequestError(str(error), status=401, code="invalid_api_key") from None
        if path in OPEN or path.startswith(_OPEN_FOLDER):
            return
        scope = _SCOPES.get(path, "inference")
        if not call.caller.may(scope):
            raise RequestError(
                f"the key {call.caller.name!r} is not for this: it needs the scope {scope}",
                status=403,
                code="insufficient_scope",
            )
        if call.method != "POST":
            return
        try:
            admission = self._accounts.quotas.enter(call.caller)
        except QuotaError as error:
            raise over_quota(error) from None
        self._admissions[call.id] = admission
        call.account = KeyAccount(self._accounts, admission)

    def leave(self, call: Call) -> None:
        """The call has ended."""
        admission = self._admissions.pop(call.id, None)
        if admission is not None:
            admission.leave()


class KeyAccount:
    """What one call may use of its key's limits, and the book where its use is written."""

    def __init__(self, accounts: Accounts, admission: Admission) -> None:
        self._accounts = accounts
        self._admission = admission
        self._settled = False

    def reserve(
        self, prompt_tokens: int, answer_tokens: int | None, room: int | None
    ) -> int | None:
        """Set tokens aside; the answer tokens granted, None without a limit."""
        most = UNLIMITED if room is None else room
        try:
            granted = self._admission.reserve(prompt_tokens, answer_tokens, most)
        except QuotaError as error:
            raise over_quota(error) from None
        return None if granted >= most else granted

    async def settle(self, call: Call) -> None:
        """Write down what was used, once, and wait until it is on the disk."""
        if self._settled:
            return
        self._settled = True
        self._admission.settle(call.prompt_tokens + call.completion_tokens)
        try:
            written = asyncio.wrap_future(self._accounts.usage.record(record_of(call)))
            await asyncio.wait_for(asyncio.shield(written), _COMMIT_SECONDS)
        except TimeoutError:
            # It stays in line for the disk. Who asked has waited long enough for a bookkeeper.
            _LOG.warning("an answer did not wait for its record of usage: the database is slow")
        except AlpageError as error:
            _LOG.error("use without a record, %s: %s", call.id, error)


def record_of(call: Call) -> UsageRecord:
    """What is written of a call."""
    return UsageRecord(
        time=time.time(),
        call=call.id,
        key=call.caller.key,
        key_name=call.caller.name,
        tenant=call.caller.tenant,
        model=call.model,
        endpoint=call.endpoint,
        status=call.status or 200,  # answers are written down before their first byte, too
        finish_reason=call.finish_reasons[-1] if call.finish_reasons else None,
        prompt_tokens=call.prompt_tokens,
        cached_tokens=call.cached_tokens,
        completion_tokens=call.completion_tokens,
        first_token_seconds=call.first_token_seconds,
        seconds=time.perf_counter() - call.began,
    )


def over_quota(error: QuotaError) -> RequestError:
    """What a caller is told who has no room left."""
    return RequestError(
        str(error), status=429, code="rate_limit_exceeded", retry_after=error.retry_after
    )


def secret_of(headers: Headers) -> str | None:
    """The key in a request's headers: a bearer's, or Anthropic's own header."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip()
    return headers.get("x-api-key") or None
