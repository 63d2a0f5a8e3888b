"""Names of a package whose modules load when the names are first used."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def later(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of `package`: `places` says which of its modules defines each name.

    For what few programs need and all would wait for: a process answers sooner without it.
    """

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    return load
