"""The thread that drives the scheduler, and the handles through which other threads use it."""

import contextlib
import dataclasses
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import AlpageError, InternalError, UsageError
from alpage.engine.adapters import Adapters
from alpage.engine.draft import DraftModel
from alpage.engine.policy import Policy
from alpage.engine.protocol import (
    EmbeddingEvent,
    EmbedRequest,
    Event,
    FailEvent,
    FinishEvent,
    PromptEvent,
    Request,
    Runner,
)
from alpage.engine.sampling import Sampler, sample_reference
from alpage.engine.scheduler import Limits, Outcome, Scheduler
from alpage.engine.spill import Spill
from alpage.engine.stats import Counters, EngineStats
from alpage.weights.lora import LoraAdapter

EventHandler = Callable[[Event], bool | None]
"""Called in the engine's thread with each event of a request; True ends the request."""


class _Submit(NamedTuple):
    number: int
    request: Request | EmbedRequest
    handler: EventHandler


class _Cancel(NamedTuple):
    number: int


class _Call(NamedTuple):
    """Something that only the engine's thread may do; `done` gets None, or the error."""

    work: Callable[[], None]
    done: "SimpleQueue[BaseException | None]"


class _Close(NamedTuple):
    pass


class _Loop:
    """What runs in the engine's thread. Others only put commands into `commands`.

    It does not know the `Engine`, so that dropping an engine without `close` still ends it.
    `commands` is a SimpleQueue because a garbage collector may cancel from anywhere, even while
    this thread is inside `get`: SimpleQueue is the queue that allows that.
    """

    def __init__(self, close: Callable[[], None], make_scheduler: Callable[[], Scheduler]) -> None:
        self.commands: SimpleQueue[_Submit | _Cancel | _Call | _Close] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="alpage-engine", daemon=True)
        self.scheduler = make_scheduler()
        self.restarts = 0
        self.submitted = self.taken = 0
        self._make_scheduler = make_scheduler
        self._close = close
        self._handlers: dict[int, EventHandler] = {}
        self._gate = threading.Lock()
        self._ended: AlpageError | None = None

    def submit(self, command: _Submit | _Call) -> None:
        """Queue a command, or raise what ended the loop."""
        with self._gate:
            if self._ended is not None:
                raise type(self._ended)(*self._ended.args) from self._ended.__cause__
            self.submitted += isinstance(command, _Submit)
            self.commands.put(command)

    @property
    def alive(self) -> bool:
        """Whether commands are still carried out."""
        return self._ended is None and self.thread.is_alive()

    def stop(self) -> None:
        """Ask the loop to end and wait for it, unless this is the engine's own thread."""
        self.commands.put(_Close())
        if threading.current_thread() is not self.thread:
            self.thread.join()

    def _run(self) -> None:
        reason: AlpageError = UsageError("this model has been closed; load it again")
        try:
            while not self._drive():
                pass
        except BaseException as error:  # the thread ends here: everyone who waits has to know
            reason = _stopped(error, "load the model again")
        finally:
            self._end(reason)

    def _drive(self) -> bool:
        """Work until something breaks that nobody expects (False), or until the end (True).

        What the scheduler knew may be half changed then, so it is replaced, and all who were in it
        fail with one error. The model and the requests that still wait in `commands` live on.
        """
        try:
            while self._obey():
                for outcome in self.scheduler.step():
                    self._deliver(outcome)
            return True
        except BaseException as error:
            self.scheduler = self._make_scheduler()
            self.restarts += 1
            failed = list(self._handlers.values())
            self._handlers.clear()
            for handler in failed:
                _tell(handler, FailEvent(_stopped(error, "it has started again: try once more")))
            return False

    def _obey(self) -> bool:
        """Carry out every command that waits, sleeping while there is nothing to do."""
        while True:
            try:
                command = self.commands.get(block=not self.scheduler.busy)
            except Empty:
                return True
            if isinstance(command, _Close):
                return False
            if isinstance(command, _Submit):
                self._add(command)
            elif isinstance(command, _Call):
                command.done.put(_outcome(command.work))
            else:
                self._cancel(command.number)

    def _add(self, command: _Submit) -> None:
        self.taken += 1
        self._handlers[command.number] = command.handler
        try:
            self.scheduler.add(command.number, command.request)
        except AlpageError as error:  # its adapter has been unloaded since it was checked
            self._deliver((command.number, FailEvent(error)))

    def _cancel(self, number: int) -> None:
        for outcome in self.scheduler.cancel(number):
            self._deliver(outcome)

    def _deliver(self, outcome: Outcome) -> None:
        number, event = outcome
        handler = self._handlers.get(number)
        if handler is None:
            return
        if isinstance(event, FinishEvent | FailEvent):
            del self._handlers[number]
        try:
            enough = handler(event)
        except BaseException as error:  # a callback's own failure ends its request alone
            self._handlers.pop(number, None)
            self.scheduler.cancel(number)
            if not isinstance(event, FailEvent):
                _tell(handler, FailEvent(error))
            return
        if enough:
            self._cancel(number)

    def _end(self, reason: AlpageError) -> None:
        """Nobody is left waiting: open requests end, later ones are refused."""
        with self._gate:
            self._ended = reason
        left = list(self._handlers.values())
        while not self.commands.empty():
            command = self.commands.get()
            if isinstance(command, _Submit):
                left.append(command.handler)
            elif isinstance(command, _Call):
                command.done.put(type(reason)(*reason.args))
        for handler in left:
            _tell(handler, FailEvent(type(reason)(*reason.args)))
        self._handlers.clear()
        if isinstance(reason, UsageError):  # closed in order: what the cache knows is right
            with contextlib.suppress(Exception):
                self.scheduler.save()
        self._close()


def _outcome(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except BaseException as error:
        return error
    return None


def _stopped(error: BaseException, advice: str) -> InternalError:
    reason = InternalError(f"the engine stopped: {type(error).__name__}: {error}; {advice}")
    reason.__cause__ = error
    return reason


def _tell(handler: EventHandler, event: Event) -> None:
    """Last words to a handler; one that fails on them has nobody left to tell."""
    try:
        handler(event)
    except BaseException:
        return


T = TypeVar("T")


class End(NamedTuple):
    """What closes a ticket's queue: the error of a request that failed, or None."""

    error: BaseException | None = None


class Ticket(Generic[T]):
    """The consumer's end of a request: iterate over what the engine's thread puts into `items`.

    Iteration ends at the `End` and raises its error. A ticket that is dropped, or whose iteration
    is left early, cancels its request. Nothing in the engine's thread may refer to the ticket:
    that is how the drop is noticed.
    """

    def __init__(self, items: "SimpleQueue[T | End]", cancel: Callable[[], None]) -> None:
        self.cancel = cancel
        """End the request within one step. Callable from any thread, any number of times."""
        self._items = items
        self._left = weakref.finalize(self, cancel)
        self._left.atexit = False

    def __iter__(self) -> Iterator[T]:
        """Items as they come, once."""
        try:
            while self._left.alive:
                item = self._items.get()
                if not isinstance(item, End):
                    yield item
                    continue
                self._left.detach()
                if item.error is not None:
                    raise item.error
        finally:
            # The way out of a consumer that breaks, fails, or is interrupted by Ctrl-C, too.
            self._left()


class Engine:
    """A runner at work: requests from any thread run together in one batch.

    The engine owns the runner and closes it. `context` (tokens) bounds each request; by default
    the model's own context length. `policy` makes the order of requests (first come, first
    served), again after each restart: see `restarts`. `spill` keeps cached beginnings of prompts
    on disk from one engine to the next. Adapters may take `adapter_bytes` of memory together.
    `draft` is closed with the engine.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        context: int | None = None,
        limits: Limits | None = None,
        policy: Callable[[], Policy] = Policy,
        sampler: Sampler = sample_reference,
        spill: Spill | None = None,
        adapter_bytes: int = 1 << 30,
        draft: DraftModel | None = None,
    ) -> None:
        self.runner = runner
        self._counters = counters = Counters()
        self._adapters = adapters = Adapters(runner, adapter_bytes)

        def scheduler() -> Scheduler:
            adapters.forget_users()
            if draft is not None:
                draft.reset()
            return Scheduler(
                runner, context=context, limits=limits, policy=policy(), sampler=sampler,
                spill=spill, adapters=adapters, draft=draft, counters=counters,
            )  # fmt: skip

        def close() -> None:
            runner.close()
            if draft is not None:
                draft.close()

        self._loop = _Loop(close, scheduler)
        self._numbers = itertools.count()
        self._finalizer = weakref.finalize(self, self._loop.stop)
        self._loop.thread.start()

    @property
    def context(self) -> int:
        """Tokens that one request can hold, prompt and answer together."""
        return self._loop.scheduler.context

    @property
    def restarts(self) -> int:
        """How often an error that nobody expected ended all that ran and began anew."""
        return self._loop.restarts

    @property
    def alive(self) -> bool:
        """Whether its thread runs and takes requests: not after `close` or a fatal failure."""
        return self._loop.alive

    @property
    def stats(self) -> EngineStats:
        """What it has done and has to do. For any thread, and cheap."""
        loop, alive = self._loop, self.alive
        scheduler, done = loop.scheduler, self._counters
        return EngineStats(
            alive=alive,
            waiting=scheduler.waiting + max(0, loop.submitted - loop.taken) if alive else 0,
            running=scheduler.running if alive else 0,
            pages_total=self.runner.page_count,
            pages_free=scheduler.free_pages,
            page_size=self.runner.page_size,
            requests=loop.submitted,
            adapters=len(self._adapters.names),
            adapter_bytes=self._adapters.bytes,
            restarts=loop.restarts,
            **dataclasses.asdict(done),
        )

    @property
    def free_pages(self) -> int:
        """Pages of the cache that no request holds at the moment."""
        return self._loop.scheduler.free_pages

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that requests can give as `adapter`."""
        return self._adapters.names

    def load_adapter(self, name: str, adapter: LoraAdapter) -> None:
        """Let requests name `adapter`, while others run; it takes the place of one of that name.

        CapacityError beyond `adapter_bytes`, FormatError for one that does not fit the model.
        """
        self._call(lambda: self._adapters.load(name, adapter))

    def unload_adapter(self, name: str) -> None:
        """Take the name back; requests that run with it end with it. UsageError if unknown."""
        self._call(lambda: self._adapters.unload(name))

    def _call(self, work: Callable[[], None]) -> None:
        done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._loop.submit(_Call(work, done))
        if (error := done.get()) is not None:
            raise error

    def start(self, request: Request | EmbedRequest, on_event: EventHandler) -> Callable[[], None]:
        """Queue a request whose events, FailEvent included, go to `on_event`; how to cancel it.

        `on_event` runs in the engine's thread and must be quick; an exception of its own ends its
        request. InputError, UsageError or CapacityError says why a request can never run.
        """
        self._loop.scheduler.check(request)
        number = next(self._numbers)
        self._loop.submit(_Submit(number, request, on_event))
        return functools.partial(self._cancel, number)

    def submit(self, request: Request | EmbedRequest) -> Ticket[Event]:
        """Queue a request and iterate over its events; errors as those of `start`."""
        items: SimpleQueue[Event | End] = SimpleQueue()
        return Ticket(items, self.start(request, functools.partial(_hand_over, items)))

    def _cancel(self, number: int) -> None:
        self._loop.commands.put(_Cancel(number))

    def score(self, tokens: Sequence[int]) -> list[float | None]:
        """Logprob (natural log) of each token given those before it; the first has None."""
        ticket = self.submit(Request(tokens, prompt_logprobs=True, answer=False))
        (found,) = [event for event in ticket if isinstance(event, PromptEvent)]
        return list(found.logprobs)

    def embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The text's vector of length 1: float32 [dim]."""
        (found,) = [e for e in self.submit(EmbedRequest(tokens)) if isinstance(e, EmbeddingEvent)]
        return found.vector

    def close(self) -> None:
        """End every open request, stop the thread and release the runner. Can be repeated."""
        self._finalizer()


def _hand_over(items: "SimpleQueue[Event | End]", event: Event) -> None:
    if isinstance(event, FailEvent):
        items.put(End(event.error))
        return
    items.put(event)
    if isinstance(event, FinishEvent):
        items.put(End())
