"""`alpage pull`: download a model of the catalogue or of a hub."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from alpage.catalogue.entries import CATALOGUE, DEFAULT_MODEL, find_entry
from alpage.catalogue.hub_name import HubName, hub_name, require_hub_name
from alpage.catalogue.hub_pull import Offer, pull_hub
from alpage.catalogue.ollama import PREFIX, is_ollama
from alpage.catalogue.pull import pull, verify
from alpage.catalogue.resolve import installed
from alpage.cli.loading import fetch
from alpage.cli.options import Json
from alpage.cli.output import megabytes, note, print_json, say
from alpage.cli.progress import download_progress
from alpage.core.errors import FormatError, NotFoundError, UsageError
from alpage.core.paths import cache_home
from alpage.core.settings import Settings

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A name of alpage list, or of a hub: ORG/NAME, ORG/NAME@REVISION, ORG/NAME:Q4_K_M or "
        "ORG/NAME:FILE.gguf.",
    ),
]
Update = Annotated[
    bool,
    typer.Option("--update", help="Of a hub: take what the revision means now, if that is newer."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Verify what is here; download nothing.")]


def command(
    name: Name = DEFAULT_MODEL, update: Update = False, offline: Offline = False, json: Json = False
) -> None:
    """Download a model, and print where it is.

    A model that is here already is verified, and repaired if it is damaged; one of a hub stays at
    the commit that was downloaded. The login is that of hf auth login or HF_TOKEN; HF_ENDPOINT and
    HF_HUB_OFFLINE are respected.
    """
    home = cache_home(Settings.from_environment())
    if is_ollama(name):
        raise UsageError(
            f"{name} is used where Ollama keeps it; ollama pull {name.removeprefix(PREFIX)} gets it"
        )
    hub = hub_name(name) if name not in CATALOGUE else None
    if hub is None and "/" in name:
        hub = require_hub_name(name)
    facts = _hub(hub, home, update, offline) if hub else _entry(name, home, update, offline)
    if json:
        print_json(facts)
    else:
        say(str(facts["path"]))


def _entry(name: str, home: Path, update: bool, offline: bool) -> dict[str, object]:
    entry = find_entry(name)
    if update:
        raise UsageError(f"--update is for models of a hub; {name} is one version of one file")
    try:
        here = installed(entry, home) is not None
    except FormatError as error:
        if offline:
            raise
        note(str(error).partition(";")[0] + "; repairing it")
        here = False
    if not here and offline:
        raise NotFoundError(f"{name} is not on this machine, and --offline downloads nothing")
    if not here:
        path = fetch(entry, home)
    else:
        path = verify(entry, home) if offline else pull(name, home)
        note(f"{name} is on this machine, and its SHA-256 is right.")
    return {"name": name, "path": str(path), "sha256": entry.sha256, "commit": None}


def _hub(name: HubName, home: Path, update: bool, offline: bool) -> dict[str, object]:
    offers: list[Offer] = []

    def announce(offer: Offer) -> None:
        offers.append(offer)
        note(_offered(offer))

    with download_progress(name.text) as progress:
        model = pull_hub(
            name, home, progress=progress, announce=announce, update=update, offline=offline
        )
    where = f"commit {model.commit[:12]}"
    if offers:
        note(f"{name.text} is here at {where}, and every checksum is right.")
    else:
        newer = "" if name.pinned or offline else "; --update asks the hub for a newer one"
        news = "there is nothing newer" if update else f"every checksum is right{newer}"
        note(f"{name.text} is on this machine at {where}, {news}.")
    return {
        "name": name.text,
        "path": str(model.path(home)),
        "sha256": None,
        "commit": model.commit,
        "downloaded_bytes": offers[0].missing if offers else 0,
        "licence": model.licence,
        "files": [dataclasses.asdict(file) for file in model.files],
    }


def _offered(offer: Offer) -> str:
    count = f"{offer.parameters / 1e6:,.0f}M parameters, " if offer.parameters else ""
    missing = "" if offer.missing == offer.size else f", {megabytes(offer.missing)} of it missing"
    return (
        f"Downloading {offer.name.text}\n"
        f"  what    {count}{offer.label}\n"
        f"  licence {offer.licence or 'not stated: ask whoever made it before you use it'}\n"
        f"  size    {megabytes(offer.size)}{missing}\n"
        f"  from    {offer.endpoint}/{offer.name.repository}, commit {offer.commit[:12]}\n"
        f"  to      {offer.folder}"
    )
