"""Offers for tests: real models whose loading can be counted, held up and made to fail."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alpage import Llama
from alpage.core.settings import Settings
from alpage.server.backends.protocol import ModelCard
from alpage.server.offers import Offer, Planned

SIZE = 100
"""Bytes that each model of a test is said to take."""


@dataclass
class Loader:
    """Loads the default model when `gate` is open; fails with what `errors` holds, in order."""

    path: Path
    size: int = SIZE
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)
    loads: int = 0
    last: Llama | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    def plan(self, most: int | None) -> Planned:
        return Planned(self.size, self.load)

    def load(self) -> Llama:
        self.loads += 1
        self.begun.set()
        assert self.gate.wait(60)
        if self.errors:
            raise self.errors.pop(0)
        self.last = Llama.load(self.path, context=512, settings=Settings())
        return self.last

    @property
    def closed(self) -> bool:
        """Whether the model that was loaded last is closed."""
        assert self.last is not None
        return not self.last.engine._loop.thread.is_alive()


def offer_of(name: str, loader: Loader, **how: float | bool | None) -> Offer:
    card = ModelCard(name, "local", 1_700_000_000, loaded=False)
    return Offer(card=card, plan=loader.plan, **how)  # type: ignore[arg-type]


class Found:
    """Models on this machine, as the catalogue would find them."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.offers = {offer.card.name: offer for offer in offers}

    def cards(self) -> list[ModelCard]:
        return [offer.card for offer in self.offers.values()]

    def find(self, name: str) -> Offer | None:
        return self.offers.get(name)


Make = Callable[..., Loader]
