"""A model's place in the pool: absent, on its way, loaded, or going, and who needs it."""

import asyncio
import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from alpage.core.errors import AlpageError, CapacityError, ResourceError
from alpage.llama import Llama
from alpage.server.backends.protocol import ModelCard, ServedModel
from alpage.server.errors import RequestError
from alpage.server.offers import Offer

_LOG = logging.getLogger("alpage.server")
T = TypeVar("T")


class Slot:
    """One engine, or a server elsewhere, and the names that share it. The event loop's alone.

    `users`: leases, also of those who still wait for it. `bytes`: memory set aside for it.
    `loading` and `closing` are the tasks that do so; they end by themselves whoever waits.
    `adapters`: those that are loaded, by name, and `setting` the tasks that load others.
    """

    def __init__(self, card: ModelCard, offer: Offer | None) -> None:
        self.card = card
        self.offer = offer
        self.keep: float | None = None if offer is None or offer.pin else offer.keep
        self.llm: Llama | None = None
        self.model: ServedModel | None = None
        self.adapters: dict[str, ServedModel] = {}
        self.setting: dict[str, asyncio.Task[None]] = {}
        self.users = 0
        self.bytes = 0
        self.used = time.monotonic()
        self.loading: asyncio.Task[None] | None = None
        self.closing: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def stays(self) -> bool:
        """Whether nothing may take it out of memory."""
        return self.offer is None or self.offer.pin

    @property
    def idle(self) -> bool:
        """Whether it is loaded, nobody uses it, and it may go."""
        return self.model is not None and not self.users and not self.stays

    @property
    def expires(self) -> float | None:
        """When it goes if nobody asks again, in seconds since 1970; None for never, or not here."""
        if self.model is None or self.keep is None:
            return None
        rest = self.keep if self.users else self.used + self.keep - time.monotonic()
        return time.time() + max(0.0, rest)

    def enter(self) -> None:
        """Somebody needs it from now on."""
        self.users += 1
        self.disarm()

    def leave(self) -> bool:
        """Somebody needs it no more; whether it is idle now."""
        self.users -= 1
        self.used = time.monotonic()
        return self.idle

    def arm(self, when_over: Callable[["Slot"], None]) -> None:
        """Call back when it has been idle for as long as it stays."""
        self.disarm()
        if self.keep is not None and self.idle:
            rest = max(0.0, self.used + self.keep - time.monotonic())
            self.timer = asyncio.get_running_loop().call_later(rest, when_over, self)

    def disarm(self) -> None:
        """Forget the callback."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def take_out(self) -> Llama | None:
        """Forget what is loaded; the engine, which is to be closed."""
        self.disarm()
        if self.model is not None:
            self.card = dataclasses.replace(self.model.card, loaded=False)
        llm, self.llm, self.model = self.llm, None, None
        self.adapters.clear()
        return llm


def begun(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """A task whose error is nothing for the log where nobody waits for it any more."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def outcome(task: "asyncio.Task[T]") -> T:
    """What a task gives to each of those who wait for it, without ending it when one leaves.

    Everyone gets an error of their own: one object raised in several tasks mixes tracebacks.
    """
    await asyncio.wait({task})
    if task.cancelled():
        raise CapacityError("the server is shutting down; ask again later")
    error = task.exception()
    if error is None:
        return task.result()
    own = copy.copy(error)
    own.__cause__ = error
    raise own


def told(error: BaseException, what: str) -> AlpageError:
    """An error of loading `what` as clients are told it; paths of this machine go to the log."""
    if isinstance(error, CapacityError | RequestError):
        return error
    if isinstance(error, MemoryError):
        return CapacityError(f"not enough memory to load {what}; ask again later")
    _LOG.error("%s cannot be loaded: %s: %s", what, type(error).__name__, error)
    return RequestError(
        f"{what} cannot be loaded at the moment; the server's log says why",
        status=503 if isinstance(error, ResourceError) else 500,
        code="model_not_loaded",
    )
