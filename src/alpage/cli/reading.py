"""Reading what a person types: lines, several lines, and the history of earlier ones."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from alpage.core.errors import AlpageError, InputError
from alpage.core.paths import atomic_write

_FENCE = '"""'
_KEPT_LINES = 1000


class Reader:
    """Messages from standard input, one after the other.

    A message is a line; a line that ends with a backslash goes on in the next one, and three
    quotes begin and end a message of many lines. With `interactive` there is a prompt, and line
    editing where Python has it.
    """

    def __init__(self, *, interactive: bool, history: Path) -> None:
        self._interactive = interactive
        self._history = history
        self._readline = _readline() if interactive else None
        if self._readline is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                for line in history.read_text("utf-8").splitlines():
                    self._readline.add_history(line)
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # `_checked` has the better message

    def read(self) -> str:
        """The next message; EOFError when there are no more."""
        line = self._line("> ")
        if line.startswith(_FENCE):
            return _checked(self._block(line.removeprefix(_FENCE)))
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._line(". "))
            except EOFError:
                break
        return _checked("\n".join(lines))

    def close(self) -> None:
        """Keep the lines typed for the next time, readable by this user alone."""
        if self._readline is None:
            return
        count = self._readline.get_current_history_length()
        first = max(1, count - _KEPT_LINES + 1)
        lines = [self._readline.get_history_item(index) for index in range(first, count + 1)]
        text = "".join(f"{line}\n" for line in lines if line and "\n" not in line)
        # A cache that cannot be written costs the history, not the chat.
        with contextlib.suppress(AlpageError), atomic_write(self._history) as file:
            file.write(text.encode("utf-8", "replace"))

    def _block(self, line: str) -> str:
        lines = []
        while not line.rstrip().endswith(_FENCE):
            lines.append(line)
            try:
                line = self._line(". ")
            except EOFError:
                break
        else:
            lines.append(line.rstrip().removesuffix(_FENCE))
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        if self._interactive:
            return input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")


def _readline() -> Any:
    """Python's line editing, where it has one; importing it is what gives it to `input`."""
    try:
        import readline
    except ImportError:
        return None
    return readline


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("this line is not UTF-8 text; it was not sent") from None
    return text
