"""`alpage list`: the models that have a name."""

import dataclasses
from typing import Annotated

import typer

from alpage.catalogue.listing import Listing, list_models
from alpage.cli.options import Json
from alpage.cli.output import megabytes, note, print_json, print_table
from alpage.core.paths import cache_home
from alpage.core.settings import Settings

All = Annotated[
    bool, typer.Option("--all", help="The models in Ollama's store on this machine too.")
]


def command(everything: All = False, json: Json = False) -> None:
    """List the models of the catalogue and those pulled from a hub: which are here.

    USED is when a model was last loaded.
    """
    models = list_models(cache_home(Settings.from_environment()), ollama=everything)
    if json:
        print_json([_facts(model) for model in models])
        return
    head = ("NAME", "STATE", "SIZE", "TYPE", "LICENCE", "USED", "WHAT IT IS")
    print_table(head, [_row(model) for model in models])
    for model in models:
        if model.problem:
            note(f"{model.name}: {model.problem}")


def _row(model: Listing) -> tuple[str, ...]:
    card = model.card
    if card is None:
        return (model.name, model.state, "", "", "", "", "")
    what = f"{card.name}: {card.description}" if card.description else card.name
    if card.source and model.kind != "catalogue":
        what += f" ({card.source})" if card.name != model.name else f" {card.source}"
    return (
        model.name,
        model.state,
        megabytes(card.file_bytes),
        card.quantization or "?",
        card.licence or "not stated",
        (card.used or "never").partition("T")[0] if card.installed else "",
        what,
    )


def _facts(model: Listing) -> dict[str, object]:
    facts: dict[str, object] = {"kind": model.kind, "state": model.state, "problem": model.problem}
    card = model.card
    if card is not None:
        facts |= dataclasses.asdict(card) | {"path": str(card.path) if card.path else None}
        facts["title"] = card.name
    return facts | {"name": model.name, "download_bytes": model.download_bytes}
