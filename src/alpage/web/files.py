"""The page's files, read once: what is not among them does not exist for the server."""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType

INDEX = "index.html"

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file. `etag`: quoted, as the header has it; another content has another."""

    content: bytes
    media_type: str
    etag: str


@functools.cache
def page_files() -> Mapping[str, PageFile]:
    """Every file by its path below `static/`, with `/` between folders: `lang/en.js`."""
    return MappingProxyType(dict(_found(files("alpage.web").joinpath("static"), "")))


def _found(folder: Traversable, prefix: str) -> Iterator[tuple[str, PageFile]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = prefix + entry.name
        kind = _TYPES.get(name.rpartition(".")[2])
        if entry.is_dir():
            yield from _found(entry, f"{name}/")
        elif kind is not None:  # an editor's leftovers are no part of the page
            content = entry.read_bytes()
            yield name, PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
