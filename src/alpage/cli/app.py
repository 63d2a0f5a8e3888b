"""The program `alpage`: its verbs, its options, and how a command line ends."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from alpage import __version__
from alpage.cli.output import note, say
from alpage.core.errors import AlpageError, InternalError, UsageError
from alpage.core.settings import Settings

VERBS = {
    "chat": "Talk to a model in the terminal.",
    "run": "Answer one prompt.",
    "serve": "Serve models over HTTP, with an OpenAI-compatible API.",
    "top": "Watch a running server.",
    "pull": "Download a model of the catalogue.",
    "list": "List the models of the catalogue.",
    "show": "Show what is known about a model.",
    "rm": "Remove a downloaded model.",
    "convert": "Convert between GGUF, Hugging Face's and Meta's layouts.",
    "quantize": "Write a model with smaller weights.",
    "keys": "Make, list and revoke the keys of a server.",
    "usage": "Show what a server's keys have used.",
    "bench": "Measure speed on this machine.",
    "perplexity": "Measure how well a model predicts a text.",
    "doctor": "Check what this machine can do, and what is wrong with it.",
}
"""Each verb is the module of its name, loaded when the verb runs.

Its function `command` is the verb. Where it has `COMMANDS`, they are the verb's own verbs:
`command` runs before them, and alone where the module's `ALONE` says so.
"""

INTERRUPTED = 130
_COMMON = {"help_option_names": ["--help", "-h"]}


class _Verbs(typer.core.TyperGroup):
    """The verbs by name and summary; the one that is used is loaded on the way."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _load(str(name)), rest


def _load(verb: str) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=_markup())
    module = importlib.import_module(f"alpage.cli.{verb}")
    below = getattr(module, "COMMANDS", {})
    if below:
        alone = getattr(module, "ALONE", False)
        app.callback(
            context_settings=_COMMON, invoke_without_command=alone, no_args_is_help=not alone
        )(module.command)
    else:
        app.command(verb, context_settings=_COMMON)(module.command)
    for name, function in below.items():
        app.command(name, context_settings=_COMMON)(function)
    return typer.main.get_command(app)


def _app() -> Any:
    app = typer.Typer(
        cls=_Verbs,
        no_args_is_help=True,
        rich_markup_mode=_markup(),
        context_settings=_COMMON,
        help="Get a Llama-family model, talk to it, serve it and measure it, on your own machine.",
        epilog="alpage VERB --help tells more. ALPAGE_HOME is where models are kept.",
    )
    app.callback()(_options)
    for verb, summary in VERBS.items():
        app.command(verb, help=summary)(_listed)
    return typer.main.get_command(app)


def _listed() -> None:
    """Stands for a verb in the help page; `_Verbs` puts the verb itself in its place."""


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"alpage {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `alpage` itself."""


def _markup() -> typer.core.MarkupMode:
    """Boxes and colours on a terminal; plain help in a pipe."""
    return "rich" if sys.stdout.isatty() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code.

    0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal cannot show becomes "?"
            stream.reconfigure(errors="replace")
    try:
        code = _run(list(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = _reader_left()
    except Exception as error:
        code = _report(error)
    if code == INTERRUPTED:
        # On a terminal the ^C stands at the end of what was being written.
        _complain(("\n" if sys.stderr.isatty() else "") + "alpage: interrupted")
    return code


def _run(arguments: list[str]) -> int:
    try:
        code = _app().main(arguments, prog_name="alpage", standalone_mode=False)
    except SystemExit as leaving:
        # typer's own answer to a broken pipe, and the end of shell completion.
        return leaving.code if isinstance(leaving.code, int) else 1
    return code if isinstance(code, int) else 0


def _report(error: Exception) -> int:
    """Say what went wrong in one message; the exit code."""
    debug = _debug()
    if debug:
        traceback.print_exception(error)
    if isinstance(error, typer.TyperException):
        return _report_usage(error)
    if isinstance(error, AlpageError) and not isinstance(error, InternalError):
        _complain(f"alpage: {error}")
        return error.exit_code
    what = str(error) if isinstance(error, InternalError) else f"{type(error).__name__}: {error}"
    _complain(f"alpage: {what}")
    hint = "" if debug else "; ALPAGE_DEBUG=1 shows where it happened"
    _complain(f"alpage: this is a bug in Alpage, please report it{hint}")
    return 1


def _report_usage(error: typer.TyperException) -> int:
    """Wrong options and arguments: what typer found, and where help is."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "alpage"
    if type(error).__name__ == "NoArgsIsHelpError":
        _complain(error.format_message())  # the help page itself
    else:
        _complain(f"alpage: {error.format_message()}\n{command} --help shows what is possible")
    return error.exit_code


def _debug() -> bool:
    try:
        return Settings.from_environment().debug
    except UsageError:  # the settings themselves are what is wrong
        return False


def _complain(message: str) -> None:
    try:
        note(message)
    except OSError:  # nobody reads the errors either
        return


def _reader_left() -> int:
    """Whoever read the output has gone (`| head`): end quietly, at exit too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
