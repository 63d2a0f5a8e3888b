"""`alpage show`: what is known about a model."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from alpage.catalogue.entries import DEFAULT_MODEL
from alpage.catalogue.listing import ModelCard, card_text, show
from alpage.catalogue.resolve import resolve
from alpage.cli.options import Json
from alpage.cli.output import megabytes, print_facts, print_json, say
from alpage.cli.progress import count_progress
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.weights.source import open_model


def command(
    model: Annotated[
        str,
        typer.Argument(help="A name of alpage list, ollama:NAME, a GGUF file or a model folder."),
    ] = DEFAULT_MODEL,
    card: Annotated[
        bool, typer.Option("--card", help="The text of its model card instead.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Look at every weight: NaN and infinity are errors.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a model's architecture, quantisation, size, context, licence and lineage."""
    home = cache_home(Settings.from_environment())
    if verify:
        _verify(model, home)
    text = card_text(model, home) if card else None
    if text is not None and not json:
        say(text.rstrip("\n"))
        return
    facts = show(model, home)
    if json:
        more = {"path": str(facts.path) if facts.path else None, "details": dict(facts.details)}
        asked = ({"card": text} if card else {}) | ({"verified": True} if verify else {})
        print_json(dataclasses.asdict(facts) | more | asked)
    else:
        checked = [("weights", "verified: every one is a finite number")] if verify else []
        print_facts(_facts(model, facts) + checked)


def _verify(model: str, home: Path) -> None:
    from alpage.weights.finite import check_finite

    with (
        open_model(resolve(model, home)) as source,
        count_progress("verifying", "weights") as progress,
    ):
        check_finite(source, progress)


def _facts(asked: str, card: ModelCard) -> list[tuple[str, str]]:
    lineage = card.lineage
    where = str(card.path) if card.path else f"not on this machine yet: alpage pull {asked}"
    optional = [
        ("description", card.description),
        ("architecture", f"{card.architecture}, {(card.parameters or 0) / 1e6:,.1f}M parameters"),
        ("quantisation", card.quantization),
        ("size", f"{megabytes(card.file_bytes)} ({card.format})"),
        ("context", f"{card.context_length:,} tokens"),
        ("licence", card.licence or "not stated: ask whoever made it before you use it"),
        ("authors", lineage.authors),
        *_several("base model", lineage.base_models),
        *_several("data", lineage.datasets),
        *_several("lineage", lineage.contributions),
        ("source", card.source),
        ("commit", card.commit),
        ("SHA-256", card.sha256),
        ("downloaded", card.pulled),
        ("last used", card.used),
        *card.details,
        ("where", where),
    ]
    return [("name", card.name), *((name, value) for name, value in optional if value)]


def _several(name: str, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """One line for each value, named once."""
    return [(name if index == 0 else "", value) for index, value in enumerate(values)]
