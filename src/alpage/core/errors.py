"""Every error that Alpage raises on purpose, and who has to act on it.

    AlpageError
    ├── UserError              the request or the file has to change
    │   ├── UsageError         arguments that make no sense together, or out of range
    │   ├── InputError         a prompt or message that cannot be run (empty, too long, ...)
    │   ├── FormatError        a file that is truncated, contradictory or not what it claims to be
    │   ├── UnsupportedError   a valid file or option that Alpage does not run
    │   └── TemplateError      a chat template that fails, loops or writes without end
    ├── ResourceError          something is missing or full; the same request can work later
    │   ├── NotFoundError      no such model, file or entry
    │   ├── DownloadError      a source could not be reached or sent something else
    │   ├── StorageError       disk full, read-only or not permitted
    │   └── CapacityError      memory, pages or queue exhausted
    └── InternalError          a bug in Alpage: please report it

A message says what was wrong, with the value, and what would be right. Exit codes: `UsageError` 2,
every other `AlpageError` 1.
"""

_MOST = 20_000  # characters of a message; a few of the longest paths fit


class AlpageError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns.

    Messages quote files, which are hostile: as text, an error is never longer than a few pages and
    has no control characters, which could command a terminal.
    """

    exit_code = 1

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > _MOST:
            text = f"{text[: _MOST // 2]} ... {text[-_MOST // 2 :]}"
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


class UserError(AlpageError):
    """The request or the file has to change before it can work."""


class UsageError(UserError):
    """Arguments that make no sense together, or values out of range."""

    exit_code = 2


class InputError(UserError):
    """A prompt or message list that cannot be run: empty, too long, of the wrong shape."""


class FormatError(UserError):
    """A file that is truncated, contradictory or not what it claims to be."""


class UnsupportedError(UserError):
    """A valid file or option that Alpage does not run."""


class TemplateError(UserError):
    """A chat template that fails to parse or render, loops, or writes without end."""


class ResourceError(AlpageError):
    """Something is missing or full; the same request can work later."""


class NotFoundError(ResourceError):
    """No such model, file or entry."""


class DownloadError(ResourceError):
    """A source could not be reached, or sent something other than what was expected."""


class StorageError(ResourceError):
    """Disk full, read-only or not permitted."""


class CapacityError(ResourceError):
    """Memory, cache pages or queue places exhausted."""


class InternalError(AlpageError):
    """A bug in Alpage."""
