"""The models that a server offers, by name: loaded when asked for, gone when memory is needed.

Only the event loop's thread uses a pool, but for `preload` before the loop begins and `close` after
it has ended. Loading happens in threads, and holds nobody up who asks another model.
"""

import asyncio
import concurrent.futures
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from alpage.core.errors import CapacityError
from alpage.llama import Llama
from alpage.server.accounts.caller import Caller
from alpage.server.backends.local import LocalModel
from alpage.server.backends.protocol import ModelCard, Remote, ServedModel
from alpage.server.errors import RequestError
from alpage.server.observe.event import log_event
from alpage.server.offers import AdapterOffer, Discovery, Offer
from alpage.server.running import CROWD, Activity, Queue
from alpage.server.slots import Slot, begun, outcome, told

PATIENCE = 30.0
"""Seconds that a request waits for others' models to leave the memory that it needs."""

_LOADERS = 2
_MOST_ADAPTERS = 1024
T = TypeVar("T")


class Lease:
    """A model that stays loaded until `release`, which can be called again."""

    def __init__(self, model: ServedModel, released: Callable[[], None]) -> None:
        self.model = model
        self._released: Callable[[], None] | None = released

    def release(self) -> None:
        """Give it back."""
        released, self._released = self._released, None
        if released is not None:
            released()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Pool:
    """What is offered.

    `models` are ready, and stay; whoever made them closes them. `offers` are loaded at first use
    into at most `memory` bytes together (None: without a bound), where those that were used
    longest ago make room when nobody uses them. `patience`: seconds that a request waits for room.
    `queue` bounds who waits at each model. `discovery` finds more models.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel] | None = None,
        *,
        offers: Sequence[Offer] = (),
        adapters: Sequence[AdapterOffer] = (),
        memory: int | None = None,
        patience: float = PATIENCE,
        queue: Queue | None = None,
        crowd: int = CROWD,
        discovery: Discovery | None = None,
    ) -> None:
        self._slots: dict[str, Slot] = {}
        for name, model in (models or {}).items():
            self._slots[name] = slot = Slot(model.card, None)
            slot.model = model
            slot.llm = model.llm if isinstance(model, LocalModel) else None
        for offer in offers:
            self._slots[offer.card.name] = Slot(offer.card, offer)
        self._adapters = {adapter.name: adapter for adapter in adapters}
        self._memory = memory
        self._patience = patience
        self._queue = queue or Queue()
        self._crowd = crowd
        self._discovery = discovery
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._closed = False
        self.on_load: Callable[[str, float], object] = lambda name, seconds: None
        """Hears of each model that has been loaded, and in how many seconds."""
        self._loaders = concurrent.futures.ThreadPoolExecutor(_LOADERS, "alpage-load")

    @classmethod
    def of(cls, models: Mapping[str, Llama], queue: Queue | None = None) -> Self:
        """Models that are loaded already; whoever loaded them closes them."""
        ready = {
            name: LocalModel(name, llm, activity=Activity(queue)) for name, llm in models.items()
        }
        return cls(ready, queue=queue)

    def __iter__(self) -> Iterator[ServedModel]:
        """Those that are loaded; each engine once, under its base model's name."""
        return iter([slot.model for slot in self._slots.values() if slot.model is not None])

    def names(self) -> frozenset[str]:
        """What is offered, loaded or not, but for what `discovery` finds; for labels."""
        return frozenset((*self._slots, *self._adapters))

    def cards(self, caller: Caller) -> list[ModelCard]:
        """Every model that the caller may ask, loaded or not."""
        known = {name: self._card(name) for name in (*self._slots, *self._adapters)}
        if self._discovery is not None:
            known = {card.name: card for card in self._discovery.cards()} | known
        return [card for name, card in known.items() if caller.may_ask(name)]

    def card(self, name: str, caller: Caller) -> ModelCard:
        """One of them; a RequestError with status 404 for another name."""
        if caller.may_ask(name):
            if name in self._slots or name in self._adapters:
                return self._card(name)
            for card in () if self._discovery is None else self._discovery.cards():
                if card.name == name:
                    return card
        raise self.unknown(name, caller)

    def _card(self, name: str) -> ModelCard:
        if name in self._adapters:
            adapter = self._adapters[name]
            slot = self._slots[adapter.base]
            base = slot.card if slot.model is None else slot.model.card
            return adapter.card(base, name in slot.adapters)
        slot = self._slots[name]
        return slot.card if slot.model is None else slot.model.card

    async def lease(self, name: str, caller: Caller) -> Lease:
        """The model of that name, ready, loaded first where it is not.

        A RequestError with status 404 for another name, with 503 where no memory gets free in
        time; else what loading it failed with. Who leaves while waiting ends nothing for others.
        """
        adapter, slot = self._adapters.get(name), self._found(name)
        if slot is None:
            slot = await self._discover(name, caller)
        slot.enter()
        try:
            model = await self._ready(slot)
            if adapter is not None:
                model = await self._adapted(slot, adapter)
        except BaseException:
            self._leave(slot)
            raise
        return Lease(model, functools.partial(self._leave, slot))

    async def keep(self, name: str, seconds: float | None) -> None:
        """How long a model stays loaded after its last use from now on: None for ever, 0 not.

        Adapters stay as long as their base; models that are pinned stay. RequestError if unknown.
        """
        slot = self._slot(name)
        if not slot.stays:
            slot.keep = seconds
            slot.arm(self._let_go)

    async def unload(self, name: str) -> None:
        """Take a model out of memory: now, and until that is done, or once nobody uses it.

        Later, when it is asked for again, it stays as long as ever. RequestError if unknown.
        """
        slot = self._slot(name)
        if slot.stays:
            return
        slot.keep = 0.0
        if slot.idle:
            self._let_go(slot)
        if slot.closing is not None:
            await asyncio.wait({slot.closing})

    def expires(self, name: str) -> float | None:
        """When a model will be unloaded if nobody asks again: seconds since 1970; None: never.

        None, too, for one that is not loaded.
        """
        slot = self._found(name)
        return None if slot is None else slot.expires

    def bytes_of(self, name: str) -> int:
        """Memory that a loaded model takes, weights and cache; 0 where it is not loaded."""
        slot = self._found(name)
        if slot is None or slot.model is None:
            return 0
        return slot.bytes or (0 if slot.llm is None else memory_of(slot.llm))

    def _found(self, name: str) -> Slot | None:
        adapter = self._adapters.get(name)
        return self._slots.get(name if adapter is None else adapter.base)

    def _slot(self, name: str) -> Slot:
        slot = self._found(name)
        if slot is None:
            raise self._missing(name, "")
        return slot

    def unknown(self, name: str, caller: Caller) -> RequestError:
        """What a name that the caller cannot use is answered with."""
        known = ", ".join(card.name for card in self.cards(caller))
        return self._missing(name, f"; this server has: {known or 'none'}")

    def _missing(self, name: str, others: str) -> RequestError:
        return RequestError(
            f"there is no model {name!r:.80} here{others}",
            status=404,
            param="model",
            code="model_not_found",
        )

    def end_running(self) -> None:
        """Cancel every answer under way; whoever asked is told."""
        for model in self:
            model.end_running()

    def preload(self) -> None:
        """Load, in this thread, what is to be there from the start; raises what that raises."""
        for slot in self._slots.values():
            if slot.offer is None or not slot.offer.preload:
                continue
            planned = slot.offer.plan(self._memory)
            if self._memory is not None and self._taken + planned.bytes > self._memory:
                raise CapacityError(
                    f"the models to load at the start need {self._taken + planned.bytes:,} bytes, "
                    f"but may use {self._memory:,}: give them more memory or a smaller context"
                )
            slot.bytes = planned.bytes
            began = time.monotonic()
            self._settle(slot, planned.load(), began)

    def start(self) -> None:
        """The event loop runs: models that are loaded already may go when their time is over."""
        for slot in self._slots.values():
            slot.arm(self._let_go)

    async def stop(self) -> None:
        """The event loop is about to end: nothing more is loaded, other servers are left."""
        self._closed = True
        for slot in self._slots.values():
            slot.disarm()
            if isinstance(slot.model, Remote):
                await slot.model.leave()

    def close(self) -> None:
        """Close every model that the pool has loaded. No loop may run that uses it."""
        self._closed = True
        self._loaders.shutdown(wait=True, cancel_futures=True)
        for slot in self._slots.values():
            if slot.offer is not None:
                llm = slot.take_out()
                if llm is not None:
                    llm.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loaders, work)

    async def _discover(self, name: str, caller: Caller) -> Slot:
        offer = None
        if self._discovery is not None:
            offer = await self._in_thread(functools.partial(self._discovery.find, name))
        if offer is None:
            raise self.unknown(name, caller)
        return self._slots.setdefault(name, Slot(offer.card, offer))

    async def _ready(self, slot: Slot) -> ServedModel:
        while slot.model is None:
            if slot.closing is not None:
                await asyncio.wait({slot.closing})
                continue
            if slot.loading is None:
                slot.loading = begun(self._load(slot))
            await outcome(slot.loading)
        return slot.model

    async def _load(self, slot: Slot) -> None:
        """What everyone waits for who wants this model; nobody's leaving ends it."""
        assert slot.offer is not None
        try:
            planned = await self._in_thread(functools.partial(slot.offer.plan, self._memory))
            await self._make_room(slot, planned.bytes)
            began = time.monotonic()
            llm = await self._in_thread(functools.partial(self._loaded, planned.load))
            self._settle(slot, llm, began)
        except Exception as error:
            raise told(error, f"the model {slot.card.name}") from error
        finally:
            slot.loading = None
            if slot.model is None:
                slot.bytes = 0
                self._freed.set()
        slot.used = time.monotonic()
        slot.arm(self._let_go)  # if everybody left meanwhile

    def _loaded(self, load: Callable[[], Llama]) -> Llama:
        llm = load()
        if self._closed:
            llm.close()
            raise CapacityError("the server is shutting down; ask again later")
        return llm

    def _settle(self, slot: Slot, llm: Llama, began: float) -> None:
        seconds = time.monotonic() - began
        log_event("model_loaded", model=slot.card.name, seconds=round(seconds, 3))
        self.on_load(slot.card.name, seconds)
        offer = slot.offer
        assert offer is not None
        slot.llm = llm
        slot.keep = None if offer.pin else offer.keep
        slot.model = LocalModel(
            slot.card.name,
            llm,
            activity=Activity(self._queue, self._crowd),
            created=slot.card.created,
        )

    @property
    def _taken(self) -> int:
        return sum(slot.bytes for slot in self._slots.values())

    async def _make_room(self, slot: Slot, need: int) -> None:
        """Set `need` bytes aside for `slot`, those of idle models where it has to be."""
        if self._memory is not None and need > self._memory:
            raise CapacityError(
                f"the model {slot.card.name} needs {need:,} bytes, but all models together may "
                f"use {self._memory:,}"
            )
        try:
            async with asyncio.timeout(self._patience), self._turn:
                while self._memory is not None and self._taken + need > self._memory:
                    await self._free_some(slot, self._memory - need)
                slot.bytes = need
        except TimeoutError:
            raise RequestError(
                f"there is no memory for the model {slot.card.name} while others are in use; "
                "ask again later",
                status=503,
                code="no_memory",
                retry_after=self._patience,
            ) from None

    async def _free_some(self, wanting: Slot, most: int) -> None:
        """Unload who was used longest ago and is idle, or wait until that can be.

        Nobody goes while what is in use takes more than `most` bytes: it would be in vain.
        """
        if not wanting.users:
            raise CapacityError("nobody waits for this model any more")
        slots = self._slots.values()
        idle = [slot for slot in slots if slot.idle]
        staying = self._taken - sum(slot.bytes for slot in slots if slot in idle or slot.closing)
        if idle and staying <= most and not any(slot.closing for slot in slots):
            self._let_go(min(idle, key=lambda slot: slot.used))
            return
        self._freed.clear()
        await self._freed.wait()

    def _leave(self, slot: Slot) -> None:
        if slot.leave():
            slot.arm(self._let_go)
        self._freed.set()

    def _let_go(self, slot: Slot) -> None:
        """Unload it, if nobody uses it."""
        if slot.idle and slot.closing is None:
            llm = slot.take_out()
            assert llm is not None
            slot.closing = begun(self._close(slot, llm))

    async def _close(self, slot: Slot, llm: Llama) -> None:
        try:
            await asyncio.to_thread(llm.close)
            log_event("model_unloaded", model=slot.card.name)
        finally:
            slot.closing = None
            slot.bytes = 0
            self._freed.set()

    async def _adapted(self, slot: Slot, adapter: AdapterOffer) -> ServedModel:
        while adapter.name not in slot.adapters:
            if adapter.name not in slot.setting:
                slot.setting[adapter.name] = begun(self._set_adapter(slot, adapter))
            await outcome(slot.setting[adapter.name])
        return slot.adapters[adapter.name]

    async def add_adapter(self, adapter: AdapterOffer, caller: Caller) -> ModelCard:
        """Offer one more adapter, loaded with its base: what loading it fails with, else its card.

        RequestError for a name that is taken, and for a base that is no model of this process.
        """
        slot = self._slots.get(adapter.base)
        if slot is None or isinstance(slot.model, Remote):
            raise RequestError(
                f"there is no model {adapter.base!r:.80} in this process, which an adapter could "
                "change",
                param="base",
            )
        if adapter.name in self.names() or len(self._adapters) >= _MOST_ADAPTERS:
            raise RequestError(
                f"the name {adapter.name!r:.80} is taken, or there are {_MOST_ADAPTERS} adapters",
                param="name",
            )
        self._adapters[adapter.name] = adapter
        try:
            (await self.lease(adapter.name, caller)).release()
        except BaseException:
            self._adapters.pop(adapter.name, None)
            raise
        return self._card(adapter.name)

    async def remove_adapter(self, name: str, caller: Caller) -> None:
        """Offer an adapter no more; answers under way end with it. RequestError if unknown."""
        adapter = self._adapters.pop(name, None)
        if adapter is None:
            raise self.unknown(name, caller)
        slot = self._slots[adapter.base]
        model, llm = slot.adapters.pop(name, None), slot.llm
        if model is not None and llm is not None:
            slot.enter()
            try:
                await self._in_thread(functools.partial(llm.unload_adapter, name))
            finally:
                self._leave(slot)

    async def _set_adapter(self, slot: Slot, adapter: AdapterOffer) -> None:
        llm, base = slot.llm, slot.model
        assert llm is not None and isinstance(base, LocalModel)
        slot.enter()  # whoever asked may leave; the engine has to stay until this is done
        try:
            await self._in_thread(functools.partial(llm.load_adapter, adapter.folder, adapter.name))
            slot.adapters[adapter.name] = base.adapted(adapter.name, adapter.created)
        except Exception as error:
            raise told(error, f"the adapter {adapter.name}") from error
        finally:
            del slot.setting[adapter.name]
            self._leave(slot)


def memory_of(llm: Llama) -> int:
    """Bytes of a loaded model's weights and of its whole cache, as bfloat16."""
    runner, info = llm.engine.runner, llm.model
    tokens = runner.page_count * runner.page_size
    return info.weight_bytes + tokens * info.config.kv_bytes_per_token(2)
