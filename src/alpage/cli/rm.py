"""`alpage rm`: free the space of a downloaded model."""

from typing import Annotated

import typer

from alpage.catalogue.check import sweep_leftovers
from alpage.catalogue.resolve import remove
from alpage.cli.options import Json
from alpage.cli.output import megabytes, print_json, say
from alpage.core.errors import UsageError
from alpage.core.paths import cache_home
from alpage.core.settings import Settings


def command(
    name: Annotated[
        str | None, typer.Argument(help="A model that alpage pull has downloaded.")
    ] = None,
    leftovers: Annotated[
        bool,
        typer.Option("--leftovers", help="Instead: what cut downloads left, and no model needs."),
    ] = False,
    json: Json = False,
) -> None:
    """Remove a downloaded model.

    Only files that Alpage has downloaded are ever removed, and of those only what no other model
    needs.
    """
    if (name is None) != leftovers:
        raise UsageError("alpage rm takes the name of a model, or else --leftovers")
    home = cache_home(Settings.from_environment())
    freed = sweep_leftovers(home) if name is None else remove(name, home)
    if json:
        print_json({"removed": name, "freed_bytes": freed})
        return
    say(f"removed {name or 'what was left over'}: {megabytes(freed)} freed")
