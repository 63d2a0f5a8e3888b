"""What is known about the models that have a name: lists, and cards for people."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alpage.catalogue import store
from alpage.catalogue.entries import CATALOGUE, Entry
from alpage.catalogue.ollama import OllamaModel, find_ollama, is_ollama, list_ollama
from alpage.catalogue.resolve import installed, pulled, resolve
from alpage.catalogue.store import HubModel
from alpage.catalogue.usage import last_use
from alpage.core.errors import AlpageError, FormatError, NotFoundError
from alpage.core.paths import ollama_models
from alpage.weights.contents import Lineage
from alpage.weights.mapped import read_text
from alpage.weights.source import open_model

_CARD = "README.md"
_MAX_CARD = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What `alpage show` tells about a model; None where nobody said."""

    name: str
    description: str | None
    installed: bool
    path: Path | None
    format: str
    architecture: str | None
    quantization: str | None
    parameters: int | None
    file_bytes: int
    context_length: int | None
    licence: str | None
    lineage: Lineage = dataclasses.field(default_factory=Lineage)
    sha256: str | None = None
    """Of a model of one file."""
    source: str | None = None
    commit: str | None = None
    """Of the hub's repository."""
    pulled: str | None = None
    """When it was downloaded: ISO 8601, UTC."""
    used: str | None = None
    """When it was last loaded: ISO 8601, UTC."""
    details: tuple[tuple[str, str], ...] = ()
    """Facts that only some models have, by name."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of `alpage list`. `problem` says why a model that is here cannot be used."""

    name: str
    kind: Literal["catalogue", "hub", "ollama"]
    state: Literal["installed", "available", "damaged"]
    card: ModelCard | None
    """None where the problem leaves nothing to tell."""
    download_bytes: int | None = None
    problem: str | None = None


def list_models(home: Path, *, ollama: bool = False) -> list[Listing]:
    """Every model of the catalogue, those pulled from a hub, and with `ollama` those of Ollama."""
    found = [_entry(entry, home) for entry in CATALOGUE.values()]
    found += _hub_models(home)
    if ollama:
        found += (_ollama(name, model) for name, model in list_ollama(ollama_models()))
    return found


def _entry(entry: Entry, home: Path) -> Listing:
    size = entry.download_bytes
    try:
        card = _entry_card(entry, home)
    except AlpageError as error:
        card = dataclasses.replace(_promise(entry), path=entry.path(home))
        return Listing(entry.name, "catalogue", "damaged", card, size, str(error))
    state: Literal["installed", "available"] = "installed" if card.installed else "available"
    return Listing(entry.name, "catalogue", state, card, size)


def _hub_models(home: Path) -> Iterator[Listing]:
    for file, model in store.manifests(home):
        if not isinstance(model, HubModel):
            advice = f"{model}; alpage doctor --deep says more"
            yield Listing(file.parent.name, "hub", "damaged", None, None, advice)
            continue
        card = _hub_card(model, home)
        try:
            store.check(model, home)
        except AlpageError as error:
            yield Listing(model.name.text, "hub", "damaged", card, None, str(error))
        else:
            yield Listing(model.name.text, "hub", "installed", card)


def _ollama(name: str, model: OllamaModel | AlpageError) -> Listing:
    if isinstance(model, AlpageError):
        return Listing(name, "ollama", "damaged", None, None, str(model))
    card = ModelCard(
        name, None, True, model.path, "gguf", None, model.quantization, None, model.size, None,
        _first_line(model.licences), sha256=model.sha256, source="Ollama's store",
        details=model.details,
    )  # fmt: skip
    return Listing(name, "ollama", "installed", card)


def _first_line(texts: tuple[str, ...]) -> str | None:
    lines = [line.strip() for text in texts[:1] for line in text.splitlines() if line.strip()]
    return lines[0][:80] if lines else None


def show(name_or_path: str | Path, home: Path) -> ModelCard:
    """All that is known about a model by name (here or not) or by path (opened to find out)."""
    if isinstance(name_or_path, str):
        if name_or_path in CATALOGUE:
            return _entry_card(CATALOGUE[name_or_path], home)
        if is_ollama(name_or_path):
            return _ollama_card(find_ollama(name_or_path, ollama_models()))
        model = pulled(name_or_path, home)
        if model is not None:
            store.check(model, home)
            return _hub_card(model, home)
    return _opened(resolve(name_or_path, home))


def _opened(path: Path) -> ModelCard:
    with open_model(path) as source:
        return ModelCard(
            name=source.name,
            description=None,
            installed=True,
            path=source.path,
            format=source.format,
            architecture="llama",
            quantization=source.quantization,
            parameters=source.config.parameter_count,
            file_bytes=source.file_bytes,
            context_length=source.config.context_length,
            licence=source.licence,
            lineage=source.lineage,
        )


def _promise(entry: Entry) -> ModelCard:
    """What the catalogue says of a model, whether it is here or not."""
    return ModelCard(
        name=entry.title,
        description=entry.description,
        installed=False,
        path=None,
        format="gguf",
        architecture=entry.architecture,
        quantization=entry.quantization,
        parameters=entry.parameters,
        file_bytes=entry.file_bytes,
        context_length=entry.context_length,
        licence=entry.licence,
        lineage=entry.lineage,
        sha256=entry.sha256,
        source=entry.source.label,
    )


def _entry_card(entry: Entry, home: Path) -> ModelCard:
    manifest, card = installed(entry, home), _promise(entry)
    if manifest is None:
        return card
    path = entry.path(home)
    return dataclasses.replace(
        card, installed=True, path=path, pulled=manifest.text("pulled"), used=last_use(path, home)
    )


def _hub_card(model: HubModel, home: Path) -> ModelCard:
    path = model.path(home)
    weights = [file for file in model.files if file.path == model.model]
    return ModelCard(
        name=model.title,
        description=None,
        installed=True,
        path=path,
        format=model.format,
        architecture="llama",
        quantization=model.quantization,
        parameters=model.parameters,
        file_bytes=model.file_bytes,
        context_length=model.context_length,
        licence=model.licence,
        lineage=model.lineage,
        sha256=weights[0].sha256 if weights else None,
        source=f"{model.endpoint}/{model.name.repository}",
        commit=model.commit,
        pulled=model.pulled,
        used=last_use(path, home),
    )


def _ollama_card(model: OllamaModel) -> ModelCard:
    card = _opened(model.path)
    return dataclasses.replace(
        card,
        name=model.name if card.name == model.path.stem else card.name,
        licence=card.licence or _first_line(model.licences),
        sha256=model.sha256,
        source=f"Ollama's store, as {model.name}",
        details=model.details,
    )


def card_text(name: str, home: Path) -> str:
    """The model card that came with a model: its README, or else all the words there are.

    They are other people's, so not yet fit for a terminal.
    """
    if name not in CATALOGUE and is_ollama(name):
        model = find_ollama(name, ollama_models())
        return "\n\n".join(model.licences) or f"{name} came without a card or licence text."
    if name in CATALOGUE:
        return _words(show(name, home))
    path, at_hub = resolve(name, home), pulled(name, home)
    folder = at_hub.folder(home) if at_hub else path
    file = folder / _CARD
    if not folder.is_dir() or not file.is_file():
        return _words(show(name, home))
    try:
        return read_text(file, _MAX_CARD)
    except (FormatError, NotFoundError) as error:
        return f"{_words(show(name, home))}\n\n({error})"


def _words(card: ModelCard) -> str:
    """A card made of what is known."""
    lineage = card.lineage
    parts = [f"# {card.name}", card.description or ""]
    parts.append(f"Licence: {card.licence or 'not stated: ask whoever made it before you use it'}")
    parts.append(f"Authors: {lineage.authors}" if lineage.authors else "")
    for title, values in (
        ("Base model", lineage.base_models),
        ("Data", lineage.datasets),
        ("Lineage", lineage.contributions),
    ):
        if values:
            parts.append("\n".join([f"{title}:", *(f"- {value}" for value in values)]))
    parts.append(f"Source: {card.source}" if card.source else "")
    return "\n\n".join(part for part in parts if part)
