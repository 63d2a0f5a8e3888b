"""Which HTTP status says what went wrong: the one table, for every dialect."""

import math

from alpage.core.errors import (
    AlpageError,
    FormatError,
    InputError,
    InternalError,
    NotFoundError,
    ResourceError,
    UserError,
)

STATUS: tuple[tuple[type[AlpageError], int], ...] = (
    (FormatError, 500),  # a damaged model file: nothing that the client could change
    (UserError, 400),
    (NotFoundError, 404),
    (ResourceError, 503),  # memory, cache or queue full; the same request can work later
    (InternalError, 500),
)
"""The first class that fits decides."""

RETRY_SECONDS = 1
"""When a client that is told 503 may ask again, where nothing better is known."""


class RequestError(InputError):
    """A request that is refused before anything runs, with all that dialects tell about it.

    `param` is the field at fault, `code` a word for programs. `retry_after`: seconds after which
    the same request can work.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after


def status_of(error: AlpageError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def headers_of(error: AlpageError) -> dict[str, str]:
    """Headers that go with an error: when to ask again, and how to show who asks."""
    status = status_of(error)
    after: float | None = getattr(error, "retry_after", None)
    if after is None and status == 503:
        after = RETRY_SECONDS
    headers = {} if after is None else {"retry-after": str(max(1, math.ceil(after)))}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers
