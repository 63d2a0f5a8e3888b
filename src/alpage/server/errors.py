"""Which HTTP status says what went wrong: the one table, for every dialect."""

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


class RequestError(InputError):
    """A request that is refused before anything runs, with all that dialects tell about it.

    `param` is the field at fault, `code` a word for programs.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def status_of(error: AlpageError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)
