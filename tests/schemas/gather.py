"""JSON Schemas that other people wrote: those of the packages installed beside this one.

Three kinds: files that are schemas, models of pydantic by `model_json_schema()`, and the
definitions inside of both, each made a schema of its own with the definitions that it needs.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "openai.types", "anthropic.types", "ollama._types", "litellm.types", "langchain_core",
    "langchain_openai", "fastapi.openapi.models", "schemathesis",
)  # fmt: skip
"""Packages that describe themselves in models of pydantic. One that is missing is left out."""
_LARGEST = 200_000  # bytes
_SIGNS = ("$schema", "properties", "definitions", "$defs")
_HOLDERS = ("$defs", "definitions")
_DEPTH = 8


def schemas(packages: Sequence[str] = PACKAGES) -> list[tuple[str, dict[str, Any]]]:
    """Name and schema, sorted by name, each content once. `packages`: whose models are read."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, schema in (*_files(), *_models(packages)):
        for part, own in _parts(name, schema):
            text = json.dumps(own, sort_keys=True)
            if len(text) <= _LARGEST:
                found.setdefault(text, (part, own))
    return sorted(found.values(), key=lambda pair: (pair[0], len(str(pair[1]))))


def _files() -> Iterator[tuple[str, dict[str, Any]]]:
    """Files of installed packages, by their path below site-packages."""
    root = Path(sysconfig.get_paths()["purelib"])
    for folder in {root, *_linked(root)}:
        for path in sorted(folder.rglob("*.json")):
            with contextlib.suppress(OSError, ValueError, RecursionError):
                if path.stat().st_size > 20 * _LARGEST:
                    continue
                value = json.loads(path.read_text("utf-8"))
                if _is_schema(value):
                    yield path.relative_to(folder).as_posix(), value
                elif isinstance(value, dict):
                    yield from _buried(path.relative_to(folder).as_posix(), value, 0)


def _linked(root: Path) -> Iterator[Path]:
    """Folders that `.pth` files add: environments can share their packages."""
    for path in root.glob("*.pth"):
        for line in path.read_text("utf-8", "replace").splitlines():
            folder = Path(line.strip())
            if line.strip() and not line.startswith("import") and folder.name == "site-packages":
                yield folder


def _buried(name: str, value: dict[str, Any], depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Schemas inside of a file that is something else, an OpenAPI document for example."""
    components = value.get("components")
    schemas = components.get("schemas") if isinstance(components, dict) else None
    if isinstance(schemas, dict):
        text = json.dumps(schemas).replace("#/components/schemas/", "#/$defs/")
        yield name, {"$defs": json.loads(text)}
        return
    for key, part in value.items():
        if isinstance(part, dict) and depth < _DEPTH:
            if _is_schema(part) and isinstance(part.get("type"), str):
                yield f"{name}#{key}", part
            else:
                yield from _buried(f"{name}#{key}", part, depth + 1)


def _is_schema(value: Any) -> bool:
    if not isinstance(value, dict) or not any(key in value for key in _SIGNS):
        return False
    given = value.get("$schema", "json-schema.org")
    properties = value.get("properties", {})
    return (
        isinstance(given, str)
        and "json-schema.org" in given
        and isinstance(properties, dict)
        and all(isinstance(part, dict | bool) for part in properties.values())
        and ("$schema" in value or "type" in value or any(key in value for key in _HOLDERS))
    )


def _models(packages: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Models of pydantic, by their module and name."""
    import pydantic

    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask the network
    seen = set()
    for name in packages:
        for module in _modules(name):
            for thing in list(vars(module).values()):
                if not isinstance(thing, type) or thing in seen:
                    continue
                seen.add(thing)
                if issubclass(thing, pydantic.BaseModel):
                    with contextlib.suppress(Exception):  # many cannot be told as a schema
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore")
                            made = thing.model_json_schema()
                        yield f"{thing.__module__}.{thing.__qualname__}", made


def _modules(name: str) -> Iterator[Any]:
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = importlib.import_module(name)
        yield package
        for info in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{name}."):
            if "test" not in info.name:
                with contextlib.suppress(Exception):
                    yield importlib.import_module(info.name)


def _parts(name: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema, and each of its definitions with the ones that it needs."""
    if schema.keys() - set(_HOLDERS):
        yield name, schema
    for holder in _HOLDERS:
        inner = schema.get(holder)
        if not isinstance(inner, dict):
            continue
        for key, part in inner.items():
            if not isinstance(part, dict):
                continue
            needed = _needed(part, inner, holder)
            own = {"$schema": schema["$schema"]} if "$schema" in schema else {}
            yield f"{name}#{key}", own | part | ({holder: needed} if needed else {})


def _needed(part: Any, known: dict[str, Any], holder: str) -> dict[str, Any]:
    """The definitions that `part` points to, and those that they point to."""
    found: dict[str, Any] = {}
    waiting = [part]
    while waiting:
        for key in re.findall(rf'"#/{re.escape(holder)}/([^"/]+)', json.dumps(waiting.pop())):
            if key in known and key not in found:
                found[key] = known[key]
                waiting.append(known[key])
    return found
