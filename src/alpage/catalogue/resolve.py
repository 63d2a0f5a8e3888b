"""The models that have a name: those that Alpage knows, those pulled from a hub, and Ollama's.

Under the cache's home a model of the catalogue is `models/NAME/FILE` with `manifest.json` beside
it, `staging/` is for what is on its way, `locks/` for locks, `used/` for times of last use;
`catalogue/store.py` describes the rest. A model is here when its manifest is: that is written last.
"""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from alpage.catalogue.entries import CATALOGUE, Entry, find_entry
from alpage.catalogue.hub_name import HubName, hub_name
from alpage.catalogue.lock import locked
from alpage.catalogue.ollama import PREFIX, find_ollama, is_ollama
from alpage.catalogue.usage import forget_use
from alpage.core.errors import FormatError, NotFoundError, UsageError
from alpage.core.paths import ollama_models, storage_errors
from alpage.weights.fields import Fields, read_json

if TYPE_CHECKING:  # `store` loads where a hub's models are asked for, not for a path
    from alpage.catalogue.store import HubModel

MANIFEST = "manifest.json"
_MAX_MANIFEST = 1 << 20


def resolve(name_or_path: str | Path, home: Path) -> Path:
    """The file or folder to open for a name (catalogue, hub, Ollama) or a path.

    A name of a model that is here wins over a file of the same name: write `./NAME` for the file.
    Raises `NotFoundError` (with the command that would get it) or `FormatError` (damaged).
    """
    if isinstance(name_or_path, str):
        named = _named(name_or_path, home)
        if named is not None:
            return named
    text = str(name_or_path)
    path = _expanded(Path(text))
    with storage_errors(f"open {path}"):
        if text and path.exists():
            return path
    hub = hub_name(text) if isinstance(name_or_path, str) else None
    if hub is not None and not text.endswith(".gguf"):
        raise NotFoundError(
            f"the model {text} is not on this machine: alpage pull {text} downloads it from the "
            f"hub{_variants(hub, home)}. There is no file or folder of that name either"
        )
    if isinstance(name_or_path, Path) or "/" in text or os.sep in text or path.suffix == ".gguf":
        raise NotFoundError(f"there is no file or folder {path}")
    find_entry(text)
    raise AssertionError("unreachable: catalogue names are handled above")


def _named(name: str, home: Path) -> Path | None:
    """Where the model of a name is; None if no model here has it."""
    if name in CATALOGUE:
        entry = CATALOGUE[name]
        if installed(entry, home) is None:
            raise NotFoundError(
                f"the model {entry.name} is not on this machine yet: alpage pull {entry.name} "
                f"downloads it ({entry.download_bytes / 1e6:.0f} MB)"
            )
        return entry.path(home)
    if is_ollama(name):
        return find_ollama(name, ollama_models()).path
    model = pulled(name, home)
    if model is None:
        return None
    from alpage.catalogue import store

    store.check(model, home)
    return model.path(home)


def pulled(name: str, home: Path) -> "HubModel | None":
    """The model of a hub that `name` means here: exactly, or the only one of that repository."""
    hub = hub_name(name)
    if hub is None:
        return None
    from alpage.catalogue import store

    try:
        exact = store.find(hub, home)
    except FormatError as error:
        raise FormatError(f"{error}; run alpage pull {hub.text} again") from None
    if exact is not None or hub.text != hub.repository:
        return exact
    others = store.variants(hub, home)
    return others[0] if len(others) == 1 else None


def is_name(word: str, home: Path) -> bool:
    """Whether `word` names a model, here or in the catalogue, rather than being any text."""
    try:
        return word in CATALOGUE or is_ollama(word) or pulled(word, home) is not None
    except FormatError:
        return True


def _variants(hub: HubName, home: Path) -> str:
    from alpage.catalogue import store

    others = [model.name.text for model in store.variants(hub, home)]
    return f" (here are, from that repository: {', '.join(others[:20])})" if others else ""


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


def remove(name: str, home: Path) -> int:
    """Delete a pulled model and return the bytes freed, those that nobody else needs.

    Never touches a file given by path, nor Ollama's.
    """
    if name in CATALOGUE:
        return _remove_entry(CATALOGUE[name], home)
    if is_ollama(name):
        raise UsageError(f"{name} belongs to Ollama: ollama rm {name.removeprefix(PREFIX)}")
    from alpage.catalogue import store

    hub = hub_name(name)
    if hub is not None and (freed := store.remove(hub, home)) is not None:
        forget_use(store.place(hub, home), home)
        return freed
    if Path(name).exists():
        raise UsageError(
            f"{name} is a file of yours; alpage rm removes only models pulled by name: "
            + ", ".join(CATALOGUE)
        )
    if hub is None:
        find_entry(name)
    raise NotFoundError(
        f"the model {name} is not on this machine; nothing was removed"
        + (_variants(hub, home) if hub else "")
    )


def _remove_entry(entry: Entry, home: Path) -> int:
    folder, path = entry.folder(home), entry.path(home)
    if not folder.is_dir():
        raise NotFoundError(f"the model {entry.name} is not on this machine; nothing was removed")
    with locked(home / "locks" / f"{entry.name}.lock"), storage_errors(f"remove {path}"):
        freed = path.stat().st_size if path.exists() else 0
        # The manifest goes first: from then on the model is not listed, whatever happens.
        (folder / MANIFEST).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of the user's is in there: leave it
            folder.rmdir()
        forget_use(path, home)
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
