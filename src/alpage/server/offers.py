"""What a server can offer: models that are loaded when somebody asks, and their adapters."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alpage.llama import Llama
from alpage.server.backends.protocol import ModelCard

KEEP_SECONDS = 1800.0
"""How long a model that nobody uses stays loaded, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A model that could be loaded now: the bytes of memory that it takes, and how to load it."""

    bytes: int
    load: Callable[[], Llama]


Plan = Callable[[int | None], Planned]
"""How to load a model into at most so many bytes (None: as many as there are).

It opens files: call it, and what it gives, in a thread. CapacityError where the memory is too
small, and other AlpageErrors for a model that cannot be opened.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A model of this process that is loaded when it is needed.

    `card` is told until it is loaded. `keep`: seconds that it stays after its last use, None for
    ever. With `pin` it stays whatever others need, with `preload` it is there from the start.
    """

    card: ModelCard
    plan: Plan
    keep: float | None = KEEP_SECONDS
    pin: bool = False
    preload: bool = False


@dataclass(frozen=True, slots=True)
class AdapterOffer:
    """A LoRA adapter in a folder of PEFT's layout, offered under its own name beside its base."""

    name: str
    base: str
    folder: Path
    created: int

    def card(self, base: ModelCard, loaded: bool) -> ModelCard:
        """Its facts, most of them those of its base."""
        return dataclasses.replace(
            base,
            name=self.name,
            kind="adapter",
            created=self.created,
            loaded=loaded,
            parent=self.base,
        )


class Discovery(Protocol):
    """Models that are on this machine, besides those that the server was started with."""

    def cards(self) -> Sequence[ModelCard]:
        """What is there; quick, so it may be some seconds old."""
        ...

    def find(self, name: str) -> Offer | None:
        """The model of exactly that name, None for another. Reads files: call it in a thread."""
        ...
