"""`alpage top`: what a running server does, now."""

import dataclasses
import json as json_text
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from alpage.cli.output import note, print_json, say
from alpage.cli.top_numbers import Between, Look, Numbers
from alpage.cli.top_text import LEGEND, model_lines, server_lines
from alpage.core.errors import FormatError, ResourceError, UsageError
from alpage.core.settings import Settings

if TYPE_CHECKING:
    import httpx

_MOST = 16 << 20  # bytes of an answer
_SECONDS = 5.0  # for an answer
_NARROW = 80

Url = Annotated[
    str,
    typer.Argument(metavar="[URL]", help="The server. Default: http://127.0.0.1:8080."),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="A key with the scope metrics, where the server asks for one. Default: ALPAGE_KEY, "
        "which other users of this machine cannot see.",
        show_default=False,
    ),
]
Interval = Annotated[
    float, typer.Option(metavar="SECONDS", help="Time between two looks, which rates are about.")
]
Once = Annotated[bool, typer.Option("--once", help="Look for one interval, then end.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON: one document a line, or one with --once.")
]


class UnreachableError(ResourceError):
    """The server does not answer, or not now: it may later."""


def command(
    url: Url = "http://127.0.0.1:8080",
    key: Key = None,
    interval: Interval = 2.0,
    once: Once = False,
    json: Json = False,
) -> None:
    """Watch a running server: requests, tokens, times and cache of each model, until Ctrl-C.

    A terminal shows a view that changes, a pipe gets one block after the other.
    """
    if not 0.1 <= interval <= 3600:
        raise UsageError(f"--interval must be between 0.1 and 3600 seconds, not {interval}")
    source = _Source(url, key or Settings.from_environment().key)
    if once:
        _once(source, interval, json)
        return
    try:
        _watch(source, interval, json)
    except KeyboardInterrupt:  # the way to end it
        return


def _once(source: "_Source", interval: float, json: bool) -> None:
    before = source.look()
    time.sleep(interval)
    numbers = Between(before, source.look()).numbers(time.time())
    if json:
        print_json(_document(source.url, numbers))
        return
    for line in _lines(source.url, numbers, _NARROW):
        say(line)


def _watch(source: "_Source", interval: float, json: bool) -> None:
    if json:
        _repeat(source, interval, lambda numbers, problem: _say_json(source, numbers, problem))
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        _repeat(source, interval, lambda numbers, problem: _say_block(source, numbers, problem))
        return
    with Live(console=console, auto_refresh=False) as live:

        def show(numbers: Numbers | None, problem: str | None) -> None:
            live.update(_screen(source, numbers, problem, console.width), refresh=True)

        show(None, "reading ...")
        _repeat(source, interval, show)


def _repeat(
    source: "_Source",
    interval: float,
    show: Callable[[Numbers | None, str | None], None],
) -> None:
    """Look again and again; what cannot become better raises."""
    before: Look | None = None
    while True:
        due = time.monotonic() + interval
        try:
            after = source.look()
        except UnreachableError as error:
            before = None
            show(None, f"{error}; trying again")
        else:
            if before is not None:
                show(Between(before, after).numbers(time.time()), None)
            before = after
        time.sleep(max(0.0, due - time.monotonic()))


class _Source:
    """A server's `/metrics`."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = _base(url)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise UsageError("the key has characters that no key has")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def look(self) -> Look:
        """Read it: UnreachableError if that may go better later, other errors if not."""
        import httpx

        try:
            with httpx.stream(
                "GET", f"{self.url}/metrics", headers=self._headers, timeout=_SECONDS
            ) as answer:
                self._check(answer)
                text = _read(answer)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            what = str(error) or type(error).__name__
            raise UnreachableError(f"{self.url} does not answer: {what}") from error
        return Look(text, time.monotonic())

    def _check(self, answer: "httpx.Response") -> None:
        status = answer.status_code
        if status in (401, 403):
            raise UsageError(
                f"{self.url} shows its metrics only with a key that has the scope metrics: give it "
                "with --key, or as ALPAGE_KEY"
            )
        if status >= 500 or status == 429:
            raise UnreachableError(f"{self.url} cannot answer now (status {status})")
        if status != 200:
            raise FormatError(f"there are no metrics at {self.url}/metrics (status {status})")


def _read(answer: "httpx.Response") -> str:
    parts, size = [], 0
    for part in answer.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > _MOST:
            raise FormatError(f"the metrics are larger than {_MOST >> 20} MiB")
    return b"".join(parts).decode("utf-8", "replace")


def _base(url: str) -> str:
    """The server's address: clients' `/v1` behind it does no harm."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"{url!r} is no address of a server, such as http://127.0.0.1:8080")
    if "@" in parts.netloc:
        raise UsageError("the address of a server holds no password here; give a key with --key")
    path = parts.path.rstrip("/").removesuffix("/metrics").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _document(url: str, numbers: Numbers) -> dict[str, Any]:
    return {"time": time.time(), "url": url} | dataclasses.asdict(numbers)


def _say_json(source: _Source, numbers: Numbers | None, problem: str | None) -> None:
    if numbers is None:
        note(f"alpage: {problem}")
    else:
        say(json_text.dumps(_document(source.url, numbers)))


def _say_block(source: _Source, numbers: Numbers | None, problem: str | None) -> None:
    if numbers is None:
        say(f"{_clock()}  {problem}")
        return
    for line in [*_lines(source.url, numbers, _NARROW), ""]:
        say(line)


def _lines(url: str, numbers: Numbers, width: int) -> list[str]:
    return [*server_lines(url, _clock(), numbers), *model_lines(numbers, width)]


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _screen(source: _Source, numbers: Numbers | None, problem: str | None, width: int) -> Any:
    """The view of one moment, for rich."""
    from rich.text import Text

    if numbers is None:
        return Text(f"{_clock()}  {problem}")
    top, *totals = server_lines(source.url, _clock(), numbers)
    head, *models = model_lines(numbers, width)
    text = Text(no_wrap=True, overflow="crop")
    text.append(f"{top}\n", style="bold")
    text.append("".join(f"{line}\n" for line in [*totals, ""]))
    text.append(f"{head}\n", style="bold")
    text.append("".join(f"{line}\n" for line in models))
    text.append("\n" + "\n".join(LEGEND), style="dim")
    return text
