"""Between the event loop and the engine: requests that run, pieces that arrive, a client that left.

The engine calls from its own thread and never waits for the loop; the loop never waits for the
engine. What has no room is refused before it runs, and an answer that nobody reads is ended, so
that neither grows without end. Whatever ends a `Run` early cancels its requests, which ends them
within one step.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from starlette.types import Receive

from alpage.core.errors import CapacityError, UsageError
from alpage.llama import Llama, Piece, TextRequest
from alpage.server.errors import RequestError

T = TypeVar("T")
Item = Piece | BaseException

CROWD = 32
"""Answers at one model from which on an answer's tokens are handed on some at a time."""
_FEW_IDS = 4096
"""Of all prompts of a call: to look at these takes the engine less than to wake a thread."""
_MOST_UNREAD = 4096
_MOST_UNREAD_OF_EACH = 256
_APART = 0.2
"""Seconds, in a crowd, from one event of an answer to the next: four or five a second are smooth to
the eye, and each takes time from the forward passes of all answers."""


@dataclass(frozen=True, slots=True)
class Queue:
    """The most that may wait for its first token at one model: requests, and their prompts' tokens.

    A single request is never too large for an empty queue.
    """

    requests: int = 512
    tokens: int = 2_000_000

    def __post_init__(self) -> None:
        if self.requests < 1 or self.tokens < 1:
            raise UsageError(
                "a queue holds at least one request and one token, not "
                f"{self.requests} requests and {self.tokens} tokens"
            )


class Activity:
    """What a model is doing: only the event loop changes it.

    `count`: requests that the engine works on or has queued. `cancels`: how to end each call's.
    `waiting` of them have had no token yet, and `waiting_tokens` in their prompts. `crowd`:
    the `count` from which on tokens are handed on some at a time, 0 for never.
    """

    def __init__(self, queue: Queue | None = None, crowd: int = CROWD) -> None:
        self.count = 0
        self.cancels: set[Callable[[], None]] = set()
        self.waiting = 0
        self.waiting_tokens = 0
        self._queue = queue or Queue()
        self._crowd = crowd
        self._begun: deque[float] = deque(maxlen=64)
        self._bridge: Bridge | None = None

    @property
    def crowded(self) -> bool:
        """Whether so many answers run that an event for each token would slow all of them down."""
        return 0 < self._crowd <= self.count

    def check(self, requests: int, tokens: int = 0) -> None:
        """Refuse what would make the queue too long. Thread-safe: a look, nothing more."""
        if not self.waiting:
            return
        most = self._queue
        if self.waiting + requests <= most.requests and (
            self.waiting_tokens + tokens <= most.tokens
        ):
            return
        raise RequestError(
            f"too many requests wait for this model: {self.waiting}, with {self.waiting_tokens} "
            f"tokens in their prompts; {most.requests} and {most.tokens} may",
            status=503,
            code="queue_full",
            retry_after=self.patience(),
        )

    def admit(self, prompts: Sequence[int]) -> "Waiting":
        """Let requests with prompts of so many tokens wait, or refuse all of them."""
        self.check(len(prompts), sum(prompts))
        self.waiting += len(prompts)
        self.waiting_tokens += sum(prompts)
        return Waiting(self, dict(enumerate(prompts)))

    def begun(self) -> None:
        """A request has had its first token."""
        self._begun.append(time.monotonic())

    def patience(self) -> float:
        """Seconds in which about half of those who wait will have begun, as the last ones did."""
        if len(self._begun) < 2:
            return 1.0
        seconds = (time.monotonic() - self._begun[0]) / len(self._begun)
        return min(60.0, max(1.0, seconds * self.waiting / 2))

    def bridge(self) -> "Bridge":
        """The way from this model's engine into the running loop."""
        loop = asyncio.get_running_loop()
        if self._bridge is None or self._bridge.loop is not loop:
            self._bridge = Bridge(loop)
        return self._bridge

    def end_all(self) -> None:
        """Cancel every request; whoever asked is told."""
        for cancel in list(self.cancels):
            cancel()


class Waiting:
    """Requests of one call that count as waiting, until each begins or all are over."""

    def __init__(self, activity: Activity, prompts: dict[int, int]) -> None:
        self._activity = activity
        self._prompts = prompts

    def begin(self, index: int) -> None:
        """Request number `index` waits no more; nothing where that is known."""
        if self._drop(index):
            self._activity.begun()

    def end(self) -> None:
        """None of them waits any more."""
        for index in list(self._prompts):
            self._drop(index)

    def _drop(self, index: int) -> bool:
        tokens = self._prompts.pop(index, None)
        if tokens is None:
            return False
        self._activity.waiting -= 1
        self._activity.waiting_tokens -= tokens
        return True


class Bridge:
    """Carries what engines' threads say into the event loop: all that one step said at once.

    To wake the loop for each piece of each answer would cost more than the pieces do. What was held
    back for later pieces, and waits too long, goes on with whatever comes from the engine next.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._held: deque[tuple[float, Callable[[], None]]] = deque()
        self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have the loop call `function`, in order. From any thread."""
        self._waiting.append((function, arguments))
        if not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self._carry)

    def _carry(self) -> None:
        self._woken = False  # first: what comes from now on wakes the loop again
        while self._waiting:
            function, arguments = self._waiting.popleft()
            function(*arguments)
        now = time.monotonic()
        while self._held and now - self._held[0][0] > _APART:
            self._held.popleft()[1]()

    def hold(self, now: float, release: Callable[[], None]) -> None:
        """Have the loop call `release` when `_APART` has passed since `now`."""
        self._held.append((now, release))


class Run:
    """Requests of one HTTP call on one model, together. `async with` it, then iterate once."""

    def __init__(self, llm: Llama, activity: Activity, requests: Sequence[TextRequest]) -> None:
        self._llm = llm
        self._activity = activity
        self._requests = requests
        self._arrived: deque[tuple[int, Item]] = deque()
        self._reader: asyncio.Future[None] | None = None  # waits for the next one
        self._woken = 0.0  # when it last got one
        self._held = False  # whether pieces wait because of the crowd
        self._bridge = activity.bridge()
        self._most = max(_MOST_UNREAD, _MOST_UNREAD_OF_EACH * len(requests))
        self._waiting: Waiting | None = None
        self._gate = threading.Lock()
        self._left = False
        self._cancels: list[Callable[[], None]] = []

    async def __aenter__(self) -> AsyncIterator[tuple[int, Piece]]:
        self._waiting = self._activity.admit([len(r.prompt) for r in self._requests])
        self._activity.cancels.add(self.cancel)
        try:
            if sum(len(request.prompt) for request in self._requests) <= _FEW_IDS:
                self._start()
            else:  # in a thread: the engine looks at every id of every prompt first
                await asyncio.to_thread(self._start)
        except BaseException:
            self._leave()
            raise
        return self._pieces()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """The number of the request, and its next piece; raises what a request failed with."""
        open_requests = len(self._requests)
        while open_requests:
            while not self._arrived:
                self._reader = self._bridge.loop.create_future()
                await self._reader
            index, item = self._next()
            if isinstance(item, BaseException):
                raise item
            if item.finish_reason == "cancelled":
                raise ended()
            if item.finish_reason is not None:
                open_requests -= 1
            yield index, item

    def _next(self) -> tuple[int, Item]:
        """What arrived next; of a crowd's with what else there is of the same answer."""
        index, item = self._arrived.popleft()
        if not self._arrived or not self._held:
            self._held = False
            return index, item
        others: deque[tuple[int, Item]] = deque()
        for number, more in self._arrived:
            if number == index and isinstance(item, Piece) and isinstance(more, Piece):
                item = item.then(more)
            else:
                others.append((number, more))
        self._arrived = others
        return index, item

    def _start(self) -> None:
        for index, request in enumerate(self._requests):
            with self._gate:
                if self._left:  # the client went while this thread was at work
                    raise ended()
                self._cancels.append(self._submit(index, request))

    def _submit(self, index: int, request: TextRequest) -> Callable[[], None]:
        """Start one request; its pieces, and the count of active ones, change in the loop."""

        def hand_over(item: Item) -> None:
            self._bridge.call(self._take, index, item)

        self._bridge.call(self._count, 1)
        try:
            return self._llm.start(request, hand_over)
        except BaseException:
            self._bridge.call(self._count, -1)
            raise

    def _count(self, change: int) -> None:
        self._activity.count += change

    def _take(self, index: int, item: Item) -> None:
        if isinstance(item, BaseException) or item.finish_reason is not None:
            self._count(-1)
        if self._waiting is not None:
            self._waiting.begin(index)
        unread = len(self._arrived)
        if unread < self._most:
            self._arrived.append((index, item))
        elif unread == self._most:
            self._arrived.append((index, _unread(unread)))
            self.cancel()
        if self._reader is None or self._reader.done():
            return
        now = time.monotonic()
        if self._waits(item, now):
            self._held = True
            self._bridge.hold(now, self._let_go)
        else:
            self._wake()

    def _waits(self, item: Item, now: float) -> bool:
        """Whether the reader should have `item` later, together with those that follow."""
        return (
            self._activity.crowded
            and now - self._woken < _APART
            and not isinstance(item, BaseException)
            and item.finish_reason is None
        )

    def _let_go(self) -> None:
        """Hand on what still waits; what came after a later event waits for its own time."""
        if time.monotonic() - self._woken >= _APART:
            self._wake()

    def _wake(self) -> None:
        if self._arrived and self._reader is not None and not self._reader.done():
            self._woken = time.monotonic()
            self._reader.set_result(None)

    def _leave(self) -> None:
        if self._waiting is not None:
            self._waiting.end()
        self._activity.cancels.discard(self.cancel)
        self.cancel()

    def cancel(self) -> None:
        """End every request within one step; the iteration raises, if it still goes on."""
        with self._gate:
            self._left = True
            for cancel in self._cancels:
                cancel()


def _unread(count: int) -> CapacityError:
    return CapacityError(f"nobody has read the last {count} pieces of this answer: it has ended")


def ended() -> CapacityError:
    """What is told whose answer the server has ended."""
    return CapacityError("the server is shutting down and has ended this answer; ask again later")


class ClientGoneError(Exception):
    """Whoever asked has closed the connection: there is nobody to answer."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled, with ClientGoneError, when the client leaves.

    The request's body has been read already: all that `receive` can still tell is the end.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
