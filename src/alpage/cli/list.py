"""`alpage list`: the models that have a name."""

import dataclasses

from alpage.cli.options import Json
from alpage.cli.output import megabytes, note, print_json, print_table
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.weights.catalogue import Listing, list_models


def command(json: Json = False) -> None:
    """List the models of the catalogue: which are here, which can be downloaded."""
    models = list_models(cache_home(Settings.from_environment()))
    if json:
        print_json([_facts(model) for model in models])
        return
    head = ("NAME", "STATE", "SIZE", "TYPE", "LICENCE", "WHAT IT IS")
    print_table(
        head,
        [
            (
                model.entry.name,
                model.state,
                megabytes(model.entry.file_bytes),
                model.entry.quantization,
                model.entry.licence,
                f"{model.entry.title}: {model.entry.description}",
            )
            for model in models
        ],
    )
    for model in models:
        if model.problem:
            note(f"{model.entry.name}: {model.problem}")


def _facts(model: Listing) -> dict[str, object]:
    entry = model.entry
    return {
        "name": entry.name,
        "title": entry.title,
        "description": entry.description,
        "state": model.state,
        "path": str(model.path) if model.path else None,
        "pulled": model.pulled,
        "problem": model.problem,
        "architecture": entry.architecture,
        "quantization": entry.quantization,
        "parameters": entry.parameters,
        "context_length": entry.context_length,
        "file_bytes": entry.file_bytes,
        "download_bytes": entry.download_bytes,
        "source": entry.source.label,
        "licence": entry.licence,
        "lineage": dataclasses.asdict(entry.lineage),
    }
