"""Between the event loop and the engine: requests that run, pieces that arrive, a client that left.

The engine calls from its own thread and never waits for the loop; the loop never waits for the
engine. Whatever ends a `Run` early cancels its requests, which ends them within one step.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar

from starlette.types import Receive

from alpage.core.errors import CapacityError
from alpage.llama import Llama, Piece, TextRequest

T = TypeVar("T")
Item = Piece | BaseException


class Activity:
    """What a model is doing: only the event loop changes it.

    `count`: requests that the engine works on or has queued. `cancels`: how to end each call's.
    """

    def __init__(self) -> None:
        self.count = 0
        self.cancels: set[Callable[[], None]] = set()

    def end_all(self) -> None:
        """Cancel every request; whoever asked is told."""
        for cancel in list(self.cancels):
            cancel()


class Run:
    """Requests of one HTTP call on one model, together. `async with` it, then iterate once."""

    def __init__(self, llm: Llama, activity: Activity, requests: Sequence[TextRequest]) -> None:
        self._llm = llm
        self._activity = activity
        self._requests = requests
        self._arrived: asyncio.Queue[tuple[int, Item]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._activity.cancels.add(self.cancel)
        self._gate = threading.Lock()
        self._left = False
        self._cancels: list[Callable[[], None]] = []

    async def __aenter__(self) -> AsyncIterator[tuple[int, Piece]]:
        try:
            # In a thread: the engine looks at every id of every prompt first.
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
            index, item = await self._arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item.finish_reason == "cancelled":
                raise _ended()
            if item.finish_reason is not None:
                open_requests -= 1
            yield index, item

    def _start(self) -> None:
        for index, request in enumerate(self._requests):
            with self._gate:
                if self._left:  # the client went while this thread was at work
                    raise _ended()
                self._cancels.append(self._submit(index, request))

    def _submit(self, index: int, request: TextRequest) -> Callable[[], None]:
        """Start one request; its pieces, and the count of active ones, change in the loop."""

        def hand_over(item: Item) -> None:
            self._loop.call_soon_threadsafe(self._take, index, item)

        self._loop.call_soon_threadsafe(self._count, 1)
        try:
            return self._llm.start(request, hand_over)
        except BaseException:
            self._loop.call_soon_threadsafe(self._count, -1)
            raise

    def _count(self, change: int) -> None:
        self._activity.count += change

    def _take(self, index: int, item: Item) -> None:
        if isinstance(item, BaseException) or item.finish_reason is not None:
            self._count(-1)
        self._arrived.put_nowait((index, item))

    def _leave(self) -> None:
        self._activity.cancels.discard(self.cancel)
        self.cancel()

    def cancel(self) -> None:
        """End every request within one step; the iteration raises, if it still goes on."""
        with self._gate:
            self._left = True
            for cancel in self._cancels:
                cancel()


def _ended() -> CapacityError:
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
