"""The thread that drives the scheduler, and the handles through which other threads use it."""

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import AlpageError, InternalError, UsageError
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
from alpage.engine.scheduler import Limits, Outcome, Scheduler

EventHandler = Callable[[Event], None]


class _Submit(NamedTuple):
    number: int
    request: Request | EmbedRequest
    handler: EventHandler


class _Cancel(NamedTuple):
    number: int


class _Close(NamedTuple):
    pass


class _Loop:
    """What runs in the engine's thread. Others only put commands into `commands`.

    It does not know the `Engine`, so that dropping an engine without `close` still ends it.
    `commands` is a SimpleQueue because a garbage collector may cancel from anywhere, even while
    this thread is inside `get`: SimpleQueue is the queue that allows that.
    """

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self.commands: SimpleQueue[_Submit | _Cancel | _Close] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="alpage-engine", daemon=True)
        self._runner = runner
        self._scheduler = scheduler
        self._handlers: dict[int, EventHandler] = {}
        self._gate = threading.Lock()
        self._ended: AlpageError | None = None

    def submit(self, command: _Submit) -> None:
        """Queue a request, or raise what ended the loop."""
        with self._gate:
            if self._ended is not None:
                raise type(self._ended)(*self._ended.args) from self._ended.__cause__
            self.commands.put(command)

    def stop(self) -> None:
        """Ask the loop to end and wait for it, unless this is the engine's own thread."""
        self.commands.put(_Close())
        if threading.current_thread() is not self.thread:
            self.thread.join()

    def _run(self) -> None:
        reason: AlpageError = UsageError("this model has been closed; load it again")
        try:
            self._drive()
        except BaseException as error:  # the thread ends here: everyone who waits has to know
            reason = InternalError(
                f"the engine stopped: {type(error).__name__}: {error}; load the model again"
            )
            reason.__cause__ = error
        finally:
            self._end(reason)

    def _drive(self) -> None:
        while True:
            if not self._obey():
                return
            for outcome in self._scheduler.step():
                self._deliver(outcome)

    def _obey(self) -> bool:
        """Carry out every command that waits, sleeping while there is nothing to do."""
        while True:
            try:
                command = self.commands.get(block=not self._scheduler.busy)
            except Empty:
                return True
            if isinstance(command, _Close):
                return False
            if isinstance(command, _Submit):
                self._handlers[command.number] = command.handler
                self._scheduler.add(command.number, command.request)
            else:
                self._cancel(command.number)

    def _cancel(self, number: int) -> None:
        for outcome in self._scheduler.cancel(number):
            self._deliver(outcome)

    def _deliver(self, outcome: Outcome) -> None:
        number, event = outcome
        handler = self._handlers.get(number)
        if handler is None:
            return
        if isinstance(event, FinishEvent | FailEvent):
            del self._handlers[number]
        try:
            handler(event)
        except BaseException as error:  # a callback's own failure ends its request alone
            self._handlers.pop(number, None)
            self._scheduler.cancel(number)
            if not isinstance(event, FailEvent):
                _tell(handler, FailEvent(error))

    def _end(self, reason: AlpageError) -> None:
        """Nobody is left waiting: open requests end, later ones are refused."""
        with self._gate:
            self._ended = reason
        left = list(self._handlers.values())
        while not self.commands.empty():
            command = self.commands.get()
            if isinstance(command, _Submit):
                left.append(command.handler)
        for handler in left:
            _tell(handler, FailEvent(type(reason)(*reason.args)))
        self._handlers.clear()
        self._runner.close()


def _tell(handler: EventHandler, event: Event) -> None:
    """Last words to a handler; one that fails on them has nobody left to tell."""
    try:
        handler(event)
    except BaseException:
        return


class Ticket:
    """A submitted request: iterate over its events, or cancel it.

    Iteration ends after the FinishEvent and raises the error of a request that failed. A ticket
    that is dropped, or whose iteration is left early, cancels its request, unless its events go to
    a callback.
    """

    def __init__(self, engine: "Engine", number: int, events: "SimpleQueue[Event] | None") -> None:
        self._engine = engine  # a ticket keeps its engine alive
        self._number = number
        self._events = events
        self._dropped = weakref.finalize(self, engine.commands.put, _Cancel(number))
        self._dropped.atexit = False
        if events is None:  # nothing to notice: the callback goes on
            self._dropped.detach()

    def cancel(self) -> None:
        """End the request within one step. Callable from any thread, any number of times."""
        self._engine.commands.put(_Cancel(self._number))

    def __iter__(self) -> Iterator[Event]:
        """Events as they come, once."""
        if self._events is None:
            raise UsageError("the events of this request go to its callback")
        try:
            while self._dropped.alive:
                event = self._events.get()
                if isinstance(event, FinishEvent | FailEvent):
                    self._dropped.detach()
                if isinstance(event, FailEvent):
                    raise event.error
                yield event
        finally:
            # The way out of a consumer that breaks, fails, or is interrupted by Ctrl-C, too.
            self._dropped()


class Engine:
    """A runner at work: requests from any thread run together in one batch.

    The engine owns the runner and closes it. `context` (tokens) bounds each request; by default
    the model's own context length.
    """

    def __init__(
        self, runner: Runner, *, context: int | None = None, limits: Limits | None = None
    ) -> None:
        self._scheduler = Scheduler(runner, context=context, limits=limits)
        self._loop = _Loop(runner, self._scheduler)
        self._numbers = itertools.count()
        self.commands = self._loop.commands
        self._finalizer = weakref.finalize(self, self._loop.stop)
        self._loop.thread.start()

    @property
    def context(self) -> int:
        """Tokens that one request can hold, prompt and answer together."""
        return self._scheduler.context

    def submit(
        self, request: Request | EmbedRequest, on_event: EventHandler | None = None
    ) -> Ticket:
        """Queue a request. InputError, UsageError or CapacityError says why it can never run.

        With `on_event` the events, FailEvent included, go to that function, called in the
        engine's thread: it must be quick. Without it the ticket holds them.
        """
        self._scheduler.check(request)
        number = next(self._numbers)
        if on_event is not None:
            self._loop.submit(_Submit(number, request, on_event))
            return Ticket(self, number, None)
        events: SimpleQueue[Event] = SimpleQueue()
        self._loop.submit(_Submit(number, request, events.put))
        return Ticket(self, number, events)

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
