"""What a file may make this process do: nothing but read files of its own folder.

Python reports file access, processes, sockets, imports and compiled code to audit hooks (PEP 578).
The hook notes what is not allowed while an input is looked at; it does not prevent it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_READS = ("open", "os.listdir", "os.scandir", "glob.glob", "pathlib.Path.glob")
_FORBIDDEN = (
    "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink",
    "os.truncate", "os.chmod", "os.chown", "os.utime", "os.putenv", "os.unsetenv", "os.chdir",
    "os.setxattr", "os.add_dll_directory", "shutil.", "socket.", "ctypes.dlopen", "ctypes.dlsym",
    "ctypes.cdata", "ctypes.string_at", "pickle.find_class", "marshal.", "code.__new__",
    "function.__new__", "import", "urllib.", "ftplib.", "smtplib.", "webbrowser.", "pty.spawn",
    "tempfile.", "signal.", "gc.get_objects", "gc.get_referrers", "sys._getframe", "sys.settrace",
)  # fmt: skip
_TEMPLATE = ("<chat template>", "<template>", "<unknown>")
_QUIET = ("encodings.", "unicodedata", "stringprep")  # codecs that error handlers load
_STATE: dict[str, Any] = {"folder": None, "seen": []}


def install() -> None:
    """Hook this process, for good."""
    sys.addaudithook(_hook)


@contextmanager
def watching(folder: Path) -> Iterator[list[str]]:
    """The list receives what was done inside the block that is not allowed."""
    seen: list[str] = []
    _STATE["seen"], _STATE["folder"] = seen, str(folder)
    try:
        yield seen
    finally:
        _STATE["folder"] = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    folder = _STATE["folder"]
    if folder is None:
        return
    if event in _READS:
        wrong = _is_outside(event, args, folder)
    elif event in ("compile", "exec"):
        wrong = _name_of_code(event, args) not in _TEMPLATE
    else:
        wrong = event.startswith(_FORBIDDEN)
        if event == "import":
            wrong = not str(args[0]).startswith(_QUIET)
        elif event in ("code.__new__", "sys._getframe"):  # Jinja moves lines of its tracebacks
            wrong = False
    if wrong:
        _STATE["seen"].append(f"{event} {args!r:.200}")


def _is_outside(event: str, args: tuple[Any, ...], folder: str) -> bool:
    path = args[0]
    if isinstance(path, int):
        return False
    name = os.fsdecode(path)
    if event == "open" and (args[2] or 0) & _WRITES:
        return True
    return os.path.commonpath([os.path.realpath(name), folder]) != folder


def _name_of_code(event: str, args: tuple[Any, ...]) -> str:
    if event == "compile":
        return str(args[1])
    return str(getattr(args[0], "co_filename", args[0]))
