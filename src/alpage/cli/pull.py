"""`alpage pull`: download a model of the catalogue."""

from typing import Annotated

import typer

from alpage.cli.loading import fetch
from alpage.cli.output import note, say
from alpage.core.errors import FormatError
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.weights.catalogue import DEFAULT_MODEL, find_entry, installed
from alpage.weights.pull import pull


def command(
    name: Annotated[str, typer.Argument(help="A name of alpage list.")] = DEFAULT_MODEL,
) -> None:
    """Download a model of the catalogue, and print where it is.

    A model that is here already is verified, and repaired if it is damaged.
    """
    home = cache_home(Settings.from_environment())
    entry = find_entry(name)
    try:
        here = installed(entry, home) is not None
    except FormatError as error:
        note(str(error).partition(";")[0] + "; repairing it")
        here = False
    if not here:
        say(str(fetch(entry, home)))
        return
    path = pull(name, home)
    note(f"{name} is on this machine, and its SHA-256 is right.")
    say(str(path))
