"""`alpage rm`: free the space of a downloaded model."""

from typing import Annotated

import typer

from alpage.cli.output import megabytes, say
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.weights.catalogue import remove


def command(
    name: Annotated[str, typer.Argument(help="A model that alpage pull has downloaded.")],
) -> None:
    """Remove a downloaded model.

    Only files that Alpage has downloaded are ever removed.
    """
    freed = remove(name, cache_home(Settings.from_environment()))
    say(f"removed {name}: {megabytes(freed)} freed")
