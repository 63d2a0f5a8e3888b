"""One HTTP request, from its coming to its last byte: who asks, what runs, what it used."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from alpage.llama import Piece
from alpage.server.accounts.caller import ANYONE, Caller
from alpage.server.backends.protocol import (
    Pieces,
    Prepared,
    PreparedEmbedding,
    ServedModel,
    Terms,
)
from alpage.server.observe.observer import Observers
from alpage.server.pool import Lease, Pool
from alpage.server.queries import ChatQuery, EmbedQuery, TextQuery

_KEPT_TEXT = 50_000
"""Characters of a prompt, and of an answer, that are kept where the operator wants them."""


class Account(Protocol):
    """The caller's allowance for this call, and the book where its use is written."""

    def reserve(
        self, prompt_tokens: int, answer_tokens: int | None, room: int | None
    ) -> int | None:
        """Set tokens aside; the answer tokens granted, None where nothing need be cut.

        `answer_tokens`: those asked for; `room`: what contexts leave, where nobody asked.
        """
        ...

    async def settle(self, call: "Call") -> None:
        """Write down what was used, before the client can know that all is there. Once."""
        ...


class Unlimited:
    """The account of anyone where nothing is counted."""

    def reserve(
        self, prompt_tokens: int, answer_tokens: int | None, room: int | None
    ) -> int | None:
        """Everything is granted."""
        return None

    async def settle(self, call: "Call") -> None:
        """Nothing is written."""


class Call:
    """The facts of one request, which observers see (`observe.observer.CallView`), and its means.

    Made by the middleware in `calls`, which ends it. Only the event loop changes it. `keeps_text`:
    the operator wants prompts and answers in the log.
    `prompt_tokens` counts each prompt once, whatever the number of its answers.
    """

    def __init__(
        self,
        pool: Pool,
        observers: Observers,
        *,
        dialect: str,
        method: str,
        trace_parent: str | None = None,
        timeout: float | None = None,
        keeps_text: bool = False,
    ) -> None:
        self.id = f"req_{secrets.token_hex(12)}"
        self.dialect = dialect
        self.method = method
        self.endpoint = "unmatched"
        self.trace_parent = trace_parent
        self.began = time.perf_counter()
        self.time = time.time()
        self.caller: Caller = ANYONE
        self.account: Account = Unlimited()
        self.model: str | None = None
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.status = 0
        self.finish_reasons: list[str] = []
        self.first_token_seconds: float | None = None
        self.error: str | None = None
        self.prompt_text: str | None = None
        self.answer_text: str | None = None
        self.keeps_text = keeps_text
        self._pool = pool
        self._observers = observers
        self._timeout = timeout
        self._leases: list[Lease] = []

    async def lease(self, name: str) -> ServedModel:
        """The model of that name, loaded and kept until this call ends; a RequestError if none."""
        self.model = name
        if not self.caller.may_ask(name):
            # As for a name that nobody has: what others may ask is not told.
            raise self._pool.unknown(name, self.caller)
        lease = await self._pool.lease(name, self.caller)
        self._leases.append(lease)
        return lease.model

    async def ask(self, name: str, query: ChatQuery | TextQuery) -> "Job":
        """Prepare a query for the model of that name."""
        if self.keeps_text:
            self.prompt_text = _text_of(query)
        model = await self.lease(name)
        if query.is_short:
            return Job(self, model, model.prepare(query))
        # Encoding a long prompt takes a while: not in the event loop.
        return Job(self, model, await asyncio.to_thread(model.prepare, query))

    async def embed(self, name: str, query: EmbedQuery) -> NDArray[np.float32]:
        """One vector of length 1 for each text: [texts, dim]."""
        model = await self.lease(name)
        prepared: PreparedEmbedding = await asyncio.to_thread(model.prepare_embedding, query)
        self.account.reserve(prepared.prompt_tokens, 0, 0)
        try:
            vectors = await prepared.run(self.terms)
            self.prompt_tokens += prepared.prompt_tokens
            return vectors
        finally:
            await self.settle()

    @property
    def terms(self) -> Terms:
        """For whom it runs."""
        caller = self.caller
        return Terms(caller.tenant, caller.priority, caller.weight, self._timeout)

    def told(self, error: BaseException) -> None:
        """What went wrong, for logs."""
        self.error = f"{type(error).__name__}: {error}"

    def heard(self, piece: Piece, before: float | None) -> float | None:
        """Tell observers of a piece of an answer; when it came, or `before` where it adds nothing.

        `before`: when the answer's last piece came, None for its first.
        """
        if piece.finish_reason is not None:
            self.finish_reasons.append(piece.finish_reason)
        if not (piece.tokens or piece.text):
            return before
        now = time.perf_counter()
        if self.first_token_seconds is None:
            self.first_token_seconds = now - self.began
        since = self.began if before is None else before
        self._observers.piece(self, now - since, len(piece.tokens) or 1, before is None)
        if self.keeps_text and len(self.answer_text or "") < _KEPT_TEXT:
            self.answer_text = (self.answer_text or "") + piece.text
        return now

    async def settle(self) -> None:
        """Write down what was used. Answers call it before they tell that they are complete."""
        await self.account.settle(self)

    def release(self) -> None:
        """Give the models back, at the end."""
        leases, self._leases = self._leases, []
        for lease in leases:
            lease.release()


class Job:
    """A query that is ready: `run` it once. `usage` is known when it has run."""

    def __init__(self, call: Call, model: ServedModel, prepared: Prepared) -> None:
        self.call = call
        self.model = model
        self.prepared = prepared
        self.usage = Tally(prepared.answers, prepared.choices)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncGenerator[Pieces, None]:
        """The pieces of all answers; leaving the context ends what still runs."""
        call, prepared = self.call, self.prepared
        granted = call.account.reserve(
            prepared.prompt_tokens, prepared.answer_tokens, prepared.room
        )
        if granted is not None and prepared.answer_tokens is None:
            prepared = prepared.bounded(granted)
        started = False
        try:
            async with prepared.run(call.terms) as pieces:
                started = True
                yield self._counted(pieces)
        finally:
            if started and not self.usage.complete:  # cut off: what may have run is paid for
                self.usage.prompt_tokens = max(self.usage.prompt_tokens, prepared.prompt_tokens)
            call.prompt_tokens += self.usage.prompt_tokens
            call.cached_tokens += self.usage.cached_tokens
            call.completion_tokens += self.usage.completion_tokens
            await call.settle()

    async def _counted(self, pieces: Pieces) -> AsyncIterator[tuple[int, Piece]]:
        last: list[float | None] = [None] * self.prepared.answers
        async for index, piece in pieces:
            last[index] = self.call.heard(piece, last[index])
            self.usage.add(index, piece)
            yield index, piece

    async def collect(self) -> list[list[Piece]]:
        """Run to the end: the pieces of each answer."""
        found: list[list[Piece]] = [[] for _ in range(self.prepared.answers)]
        async with self.run() as pieces:
            async for index, piece in pieces:
                found[index].append(piece)
        return found


class Tally:
    """Tokens of all answers of a query; a prompt that several answers share counts once."""

    def __init__(self, answers: int, choices: int) -> None:
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self._open = answers
        self._choices = choices
        self._seen = [0] * answers

    @property
    def complete(self) -> bool:
        """Whether every answer has ended by itself."""
        return self._open == 0

    def add(self, index: int, piece: Piece) -> None:
        """Count a piece of answer number `index`."""
        count = len(piece.tokens)
        if piece.usage is not None:  # another server's pieces have no tokens: the end tells
            count = piece.usage.completion_tokens - self._seen[index]
        self._seen[index] += count
        self.completion_tokens += count
        if piece.usage is None:
            return
        self._open -= 1
        if index % self._choices == 0:
            self.prompt_tokens += piece.usage.prompt_tokens
            self.cached_tokens += piece.usage.cached_tokens


def call_of(request: Request) -> Call:
    """The call that the middleware made of this request."""
    call = request.state.call
    assert isinstance(call, Call)
    route = request.scope.get("route")
    if route is not None:
        call.endpoint = route.path
    return call


def _text_of(query: ChatQuery | TextQuery) -> str:
    """What a log shows of what was asked."""
    asked = query.messages if isinstance(query, ChatQuery) else query.prompts
    return repr(list(asked)[:100])[:_KEPT_TEXT]
