"""`alpage show`: what is known about a model."""

import dataclasses
from typing import Annotated

import typer

from alpage.cli.options import Json
from alpage.cli.output import megabytes, print_facts, print_json
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.weights.catalogue import DEFAULT_MODEL, ModelCard, show


def command(
    model: Annotated[
        str, typer.Argument(help="A name of alpage list, a GGUF file or a model folder.")
    ] = DEFAULT_MODEL,
    json: Json = False,
) -> None:
    """Show a model's architecture, quantisation, size, context, licence and lineage."""
    card = show(model, cache_home(Settings.from_environment()))
    if json:
        facts = dataclasses.asdict(card)
        print_json(facts | {"path": str(card.path) if card.path else None})
    else:
        print_facts(_facts(model, card))


def _facts(asked: str, card: ModelCard) -> list[tuple[str, str]]:
    lineage = card.lineage
    where = str(card.path) if card.path else f"not on this machine yet: alpage pull {asked}"
    optional = [
        ("description", card.description),
        ("architecture", f"{card.architecture}, {card.parameters / 1e6:,.1f}M parameters"),
        ("quantisation", card.quantization),
        ("size", f"{megabytes(card.file_bytes)} ({card.format})"),
        ("context", f"{card.context_length:,} tokens"),
        ("licence", card.licence or "not stated: ask whoever made it before you use it"),
        ("authors", lineage.authors),
        *_several("base model", lineage.base_models),
        *_several("data", lineage.datasets),
        *_several("lineage", lineage.contributions),
        ("source", card.source),
        ("SHA-256", card.sha256),
        ("downloaded", card.pulled),
        ("where", where),
    ]
    return [("name", card.name), *((name, value) for name, value in optional if value)]


def _several(name: str, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """One line for each value, named once."""
    return [(name if index == 0 else "", value) for index, value in enumerate(values)]
