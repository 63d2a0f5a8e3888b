"""A pseudo-terminal with the real program in it, driven as a person would."""

import contextlib
import os
import pty
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.cli.conftest import CHECKOUT, PROGRAM, environment

SECONDS = 60
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


class Terminal:
    """What is on the screen so far is `text`."""

    def __init__(self, pid: int, handle: int) -> None:
        self.text = ""
        self._pid = pid
        self._handle = handle
        self._seen = 0

    def wait(self, words: str) -> str:
        """Read on until `words` come; what came up to their end."""
        end = time.monotonic() + SECONDS
        while words not in self.text[self._seen :]:
            assert time.monotonic() < end, f"{words!r} did not come; on the screen:\n{self.text}"
            assert self._read(0.1), f"it ended without {words!r}; on the screen:\n{self.text}"
        start, self._seen = self._seen, self.text.index(words, self._seen) + len(words)
        return self.text[start : self._seen]

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._handle, keys.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C, no faster than a person: readline misses it in its first microseconds."""
        time.sleep(0.3)
        self.type(CTRL_C)

    def say(self, line: str) -> None:
        """Type a line at the prompt, with Return."""
        self.wait("> ")
        self.type(f"{line}\r")
        self.wait("\r\n")  # the terminal's echo

    def exit_code(self) -> int:
        """Wait for the program's end."""
        end = time.monotonic() + SECONDS
        while self._read(0.1):
            assert time.monotonic() < end, f"it does not end; on the screen:\n{self.text}"
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self, seconds: float) -> bool:
        """Take in what is there; False at the end."""
        if not select.select([self._handle], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._handle, 65536)
        except OSError:  # Linux says so when the other side has gone
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)


@contextlib.contextmanager
def terminal(
    *arguments: str | Path, home: Path, kind: str = "xterm",
    program: Sequence[str] = (str(PROGRAM),),
    env: Mapping[str, str] | None = None,
) -> Iterator[Terminal]:  # fmt: skip
    """`alpage ARGUMENTS` in a terminal of 100 columns; ended if the test leaves it running."""
    pid, handle = pty.fork()
    if pid == 0:
        try:
            os.chdir(CHECKOUT)
            words = [*program, *map(str, arguments)]
            os.execve(words[0], words, environment(home, TERM=kind, **(env or {})))
        finally:
            os._exit(127)
    try:
        yield Terminal(pid, handle)
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        os.close(handle)
