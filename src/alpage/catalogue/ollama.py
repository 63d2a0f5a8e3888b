"""Models out of a local Ollama store, by name, read where they are and never changed.

`ollama:NAME[:TAG]`, `ollama:NAMESPACE/NAME[:TAG]` or `ollama:REGISTRY/NAMESPACE/NAME[:TAG]`. The
store's `manifests/REGISTRY/NAMESPACE/NAME/TAG` is a JSON list of layers, each a file
`blobs/sha256-HASH`; the layer of the model is a GGUF file. Ollama's chat template is a program in
Go's template language and is not run: the template inside the GGUF file is used.
Layout: `docs/modelfile.md` and the manifests of the Ollama project, as its programs write them.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alpage.core.errors import (
    AlpageError,
    FormatError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from alpage.core.paths import storage_errors
from alpage.weights.fields import Fields, clean, read_json
from alpage.weights.mapped import read_text

PREFIX = "ollama:"
_REGISTRY, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,200}(:\d{1,5})?")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_KIND = "application/vnd.ollama.image."
_MAX_MANIFEST, _MAX_TEXT, _MAX_LAYERS, _MAX_LISTED = 1 << 20, 1 << 20, 1000, 10_000


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """A model of the store. `path` is the GGUF file, which is Ollama's, not ours."""

    name: str
    """With the prefix, in the shortest form that means it."""
    path: Path
    size: int
    sha256: str
    quantization: str | None
    licences: tuple[str, ...]
    details: tuple[tuple[str, str], ...]
    """What else its maker set, for people: parameters, the system prompt, the template."""


def is_ollama(text: str) -> bool:
    """Whether `text` asks for a model of Ollama's."""
    return text.startswith(PREFIX)


def find_ollama(text: str, models: Path) -> OllamaModel:
    """The model that `text` (with the prefix) means, in the store `models`.

    Raises `UsageError` (no name), `NotFoundError`, `FormatError` (damaged manifest, missing blob)
    or `UnsupportedError` (an adapter, a model that sees).
    """
    parts = _parts(text)
    file = _inside(models, models.joinpath("manifests", *parts))
    with storage_errors(f"read {file}"):
        if not file.is_file():
            raise _not_found(text, models)
    return _open(file, _short(parts), models)


def list_ollama(models: Path) -> Iterator[tuple[str, OllamaModel | AlpageError]]:
    """Every model of the store by name, or what is wrong with it."""
    root = models / "manifests"
    with storage_errors(f"read {root}"):
        files = sorted(path for path in root.glob("*/*/*/*") if path.is_file())
    for file in files[:_MAX_LISTED]:
        parts = file.relative_to(root).parts
        name = _short(parts)
        try:
            if _parts(name) != parts:
                continue
        except UsageError:  # a file of somebody else's
            continue
        try:
            yield name, find_ollama(name, models)
        except AlpageError as error:
            yield name, error


def _parts(text: str) -> tuple[str, str, str, str]:
    """Registry, namespace, name and tag."""
    path, _, tag = text.removeprefix(PREFIX).rpartition(":")
    if not path or "/" in tag:  # there is no tag; a colon may belong to the registry's port
        path, tag = text.removeprefix(PREFIX), _TAG
    given = path.split("/")
    *front, name = given
    registry, namespace = {
        0: (_REGISTRY, _NAMESPACE),
        1: (_REGISTRY, front[0] if front else ""),
        2: (front[0], front[-1]) if front else ("", ""),
    }.get(len(front), ("", ""))
    good = all(_PART.fullmatch(part) for part in (namespace, name, tag))
    if not good or not _HOST.fullmatch(registry) or ".." in registry:
        raise UsageError(
            f"{text[:200]!r} is no name of a model in Ollama's store; right are {PREFIX}NAME, "
            f"{PREFIX}NAME:TAG and {PREFIX}REGISTRY/NAMESPACE/NAME:TAG"
        )
    return registry, namespace, name, tag


def _short(parts: tuple[str, ...]) -> str:
    registry, namespace, name, tag = parts
    short = name if namespace == _NAMESPACE else f"{namespace}/{name}"
    if registry != _REGISTRY:
        short = f"{registry}/{namespace}/{name}"
    return f"{PREFIX}{short}:{tag}"


def _not_found(text: str, models: Path) -> NotFoundError:
    if not (models / "manifests").is_dir():
        return NotFoundError(
            f"there is no Ollama store at {models}; OLLAMA_MODELS says where it is, if elsewhere"
        )
    known = [name for name, _ in list_ollama(models)]
    shown = ", ".join(known[:20]) or "no model at all"
    return NotFoundError(f"Ollama's store at {models} has no {clean(text)}; it has {shown}")


def _inside(models: Path, path: Path) -> Path:
    """`path`, unless links in the store lead out of it."""
    with storage_errors(f"read {path}"):
        if not path.resolve().is_relative_to(models.resolve()):
            raise FormatError(f"{path} is a link that leads out of Ollama's store")
    return path


def _open(file: Path, name: str, models: Path) -> OllamaModel:
    manifest = read_json(file, _MAX_MANIFEST)
    layers = manifest.values.get("layers")
    if type(layers) is not list or not layers or len(layers) > _MAX_LAYERS:
        raise FormatError(f"{file} is damaged: it has no list of layers")
    by_kind: dict[str, list[Fields]] = {}
    for layer in layers:
        if type(layer) is not dict:
            raise FormatError(f"{file} is damaged: a layer is no object")
        fields = Fields(file, layer)
        kind = (fields.word("mediaType") or "").removeprefix(_KIND)
        by_kind.setdefault(kind, []).append(fields)
    for kind, what in {"adapter": "an adapter (LoRA)", "projector": "a projector (vision)"}.items():
        if kind in by_kind:
            raise UnsupportedError(f"{name} has {what} beside its model; Alpage runs plain llama")
    if len(by_kind.get("model", [])) != 1:
        found = ", ".join(sorted(by_kind)) or "nothing"
        raise UnsupportedError(f"{name} is not one GGUF model: its layers are {clean(found)}")
    path, sha256 = _blob(by_kind["model"][0], name, models)
    with storage_errors(f"read {path}"):
        size = path.stat().st_size
    licences = tuple(_text(layer, name, models) for layer in by_kind.get("license", []))
    kind_of = _quantization(manifest, name, models)
    details = tuple(_details(by_kind, name, models))
    return OllamaModel(name, path, size, sha256, kind_of, licences, details)


def _blob(layer: Fields, name: str, models: Path) -> tuple[Path, str]:
    """The file of a layer, which is there in its full size, and its hash."""
    digest = layer.text("digest") or ""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise FormatError(f"{layer.path} is damaged: {digest[:80]!r} is no SHA-256 digest")
    folder = models / "blobs"
    path = folder / f"sha256-{match[1]}"
    with storage_errors(f"read {path}"):
        old = folder / f"sha256:{match[1]}"  # as early versions wrote it
        path = old if os.name != "nt" and not path.exists() and old.exists() else path
        if not _inside(models, path).is_file():
            raise FormatError(f"{name} lacks its file {path}; ollama pull gets it again")
        size = path.stat().st_size
    expected = layer.integer("size")
    if size != expected:
        raise FormatError(
            f"{path} is damaged: it has {size:,} bytes and should have {expected:,}; remove the "
            "model with ollama rm and pull it again"
        )
    return path, match[1]


def _text(layer: Fields, name: str, models: Path) -> str:
    return read_text(_blob(layer, name, models)[0], _MAX_TEXT)


def _quantization(manifest: Fields, name: str, models: Path) -> str | None:
    """The type as the store's own summary of the model has it."""
    config = manifest.section("config")
    if config is None:
        return None
    with contextlib.suppress(FormatError):
        return read_json(_blob(config, name, models)[0], _MAX_TEXT).word("file_type")
    return None


def _details(
    by_kind: dict[str, list[Fields]], name: str, models: Path
) -> Iterator[tuple[str, str]]:
    for layer in by_kind.get("params", []):
        for key, value in read_json(_blob(layer, name, models)[0], _MAX_TEXT).values.items():
            for item in value if type(value) is list else [value]:
                yield f"ollama {clean(key)}", repr(item) if type(item) is str else clean(str(item))
    for layer in by_kind.get("system", []):
        yield "ollama system", _text(layer, name, models)[:2000]
    if "template" in by_kind:
        yield "ollama template", "in Go's language, not run; the GGUF file's own template is used"
    if "messages" in by_kind:
        yield "ollama messages", "not used"
