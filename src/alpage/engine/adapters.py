"""Adapters by name: which slot of the runner each has, who uses it, and what memory they take."""

import hashlib
from dataclasses import dataclass

from alpage.core.errors import CapacityError, UsageError
from alpage.engine.protocol import Runner
from alpage.weights.lora import LoraAdapter

_BYTES = 2  # of a number, as the native core keeps it


@dataclass(eq=False, slots=True)
class Loaded:
    """An adapter in its slot. `digest` names its content, for the keys of cached pages."""

    slot: int
    digest: str
    users: int = 0
    leaving: bool = False


class Adapters:
    """The adapters of one runner. The engine's thread changes them; `find` is for any thread.

    `budget` bounds the memory of all of them, in bytes. One that is removed or replaced while
    requests run with it stays for these, and no other request gets it.
    """

    def __init__(self, runner: Runner, budget: int) -> None:
        self._runner = runner
        self._budget = budget
        self._loaded: dict[str, Loaded] = {}
        self._leaving: list[Loaded] = []
        self.bytes = 0
        """Memory of all of them, as the runner counts it."""

    @property
    def names(self) -> tuple[str, ...]:
        """What requests can ask for, in order of loading."""
        return tuple(self._loaded)

    def find(self, name: str) -> Loaded:
        """The adapter of that name; UsageError where there is none."""
        found = self._loaded.get(name)
        if found is None:
            known = f"loaded are {', '.join(self.names)}" if self._loaded else "none is loaded"
            raise UsageError(f"no adapter is called {name!r}; {known}")
        return found

    def load(self, name: str, adapter: LoraAdapter) -> None:
        """Keep `adapter` under `name`, in place of an earlier one of that name.

        Raises CapacityError beyond the budget, FormatError for one that does not fit the model.
        """
        wanted, used = _BYTES * adapter.size, self._runner.adapter_bytes
        if used + wanted > self._budget:
            raise CapacityError(
                f"adapter {name!r} needs {wanted:,} bytes; {used:,} of {self._budget:,} for "
                "adapters are taken: unload others, or load the model with more for adapters"
            )
        taken = {loaded.slot for loaded in (*self._loaded.values(), *self._leaving)}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        self._runner.set_adapter(slot, adapter)
        self.bytes = self._runner.adapter_bytes
        if name in self._loaded:
            self.unload(name)
        self._loaded[name] = Loaded(slot, _digest(adapter))

    def unload(self, name: str) -> None:
        """Give no further request the adapter of that name; UsageError where there is none."""
        loaded = self.find(name)
        del self._loaded[name]
        loaded.leaving = True
        self._leaving.append(loaded)
        self._free(loaded)

    def use(self, name: str) -> Loaded:
        """One request more runs with it."""
        loaded = self.find(name)
        loaded.users += 1
        return loaded

    def leave(self, loaded: Loaded) -> None:
        """One request less."""
        loaded.users -= 1
        self._free(loaded)

    def forget_users(self) -> None:
        """All requests are gone at once."""
        for loaded in (*self._loaded.values(), *list(self._leaving)):
            loaded.users = 0
            self._free(loaded)

    def _free(self, loaded: Loaded) -> None:
        if loaded.leaving and loaded.users == 0:
            self._leaving.remove(loaded)
            self._runner.free_adapter(loaded.slot)
            self.bytes = self._runner.adapter_bytes


def _digest(adapter: LoraAdapter) -> str:
    """Of all that changes what the model says."""
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(adapter.matrices):
        matrix = adapter.matrices[name]
        digest.update(f"{name} {matrix.a.shape} {matrix.b.shape} {matrix.scale!r} ".encode())
        digest.update(matrix.a.tobytes())
        digest.update(matrix.b.tobytes())
    return digest.hexdigest()
