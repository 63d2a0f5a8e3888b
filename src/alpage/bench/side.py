"""What a benchmark asks of an engine."""

from collections.abc import Mapping
from typing import Any, Protocol

from alpage.bench.cases import Case


class Side(Protocol):
    """One engine with one model, in a process of its own."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Ways of running that are all measured; the better one counts."""
        ...

    def load(self) -> float:
        """Load the model anew; seconds from the file to ready, tokenizer included."""
        ...

    def prepare(self, case: Case) -> None:
        """Fill the caches that `case` starts from. Not timed."""
        ...

    def run(self, case: Case, variant: str) -> float:
        """Measure a prepared case once: tokens per second."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Version, build and settings of the engine."""
        ...
