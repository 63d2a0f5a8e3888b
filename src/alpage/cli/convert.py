"""`alpage convert`: between GGUF, Hugging Face's layout and Meta's layout."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from alpage.catalogue.entries import CATALOGUE
from alpage.catalogue.listing import show
from alpage.cli.loading import ready
from alpage.cli.options import Json, Model
from alpage.cli.output import megabytes, note, print_facts, print_json
from alpage.cli.progress import download_progress
from alpage.convert.convert import Converted, convert
from alpage.convert.rights import Identity
from alpage.core.errors import UsageError
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.weights.source import open_model

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(|[KMG]I?)B?", re.IGNORECASE | re.ASCII)
_HF_SHARD = 5 * 10**9


Out = Annotated[
    Path,
    typer.Argument(help="The folder to write; for GGUF also a file NAME.gguf.", metavar="OUT"),
]
To = Annotated[
    Literal["gguf", "hf", "meta"],
    typer.Option("--to", help="GGUF, Hugging Face's layout (hf) or Meta's layout (meta)."),
]
Kind = Annotated[
    Literal["keep", "F32", "F16", "BF16"],
    typer.Option(
        "--type",
        help="Type of the weights. keep: as they are; quantised ones become F16 in hf and meta.",
    ),
]
ShardSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Largest file of weights, for example 5GB (default of hf)."),
]
Shards = Annotated[int, typer.Option(metavar="N", help="Files of Meta's layout, one a processor.")]
Name = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Name of the model. Default: as it is.")
]
Licence = Annotated[
    str | None,
    typer.Option(
        "--licence", "--license", metavar="ID", help="Its licence, where it does not say it."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what OUT holds.")]


def command(
    model: Model,
    out: Out,
    to: To,
    kind: Kind = "keep",
    shard_size: ShardSize = None,
    shards: Shards = 1,
    name: Name = None,
    licence: Licence = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Convert a model to another format, with tokenizer, template, licence and lineage.

    OUT appears whole or not at all. For quantised GGUF files see alpage quantize.
    """
    limit = _bytes(shard_size) if shard_size is not None else None
    if to == "hf" and limit is None:
        limit = _HF_SHARD
    settings = Settings.from_environment()
    path = ready(model, settings)
    with open_model(path) as source, download_progress(out.name) as progress:
        done = convert(
            source,
            out,
            to,
            kind=kind,
            identity=known_identity(model, settings),
            name=name,
            licence=licence,
            shard_bytes=limit,
            shards=shards,
            force=force,
            progress=progress,
        )
    if json:
        print_json(_facts(done))
    else:
        _tell(done)


def known_identity(model: str, settings: Settings) -> Identity | None:
    """What the catalogue knows of a model that was asked for by name; else its files speak."""
    if model not in CATALOGUE:
        return None
    card = show(model, cache_home(settings))
    return Identity(card.name, card.licence, card.lineage)


def _bytes(text: str) -> int:
    """A size such as 500MB, 5GB or 2GiB."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise UsageError(f"a size is a number and a unit, such as 500MB or 5GB, not {text!r:.80}")
    return size


def _facts(done: Converted) -> dict[str, object]:
    identity = done.identity
    return {
        "path": str(done.target),
        "name": identity.name,
        "type": done.stored,
        "bytes": done.bytes,
        "files": [str(file) for file in done.files],
        "licence": identity.licence,
        "base_models": list(identity.lineage.base_models),
        "datasets": list(identity.lineage.datasets),
        "contributions": list(identity.lineage.contributions),
        "notes": list(done.notes),
    }


def _tell(done: Converted) -> None:
    for text in done.notes:
        note(text)
    print_facts(
        [
            ("written", f"{done.target} ({len(done.files)} files, {megabytes(done.bytes)})"),
            ("name", done.identity.name),
            ("type", done.stored),
            ("licence", done.identity.licence or ""),
        ]
    )
