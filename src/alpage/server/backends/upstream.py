"""A model that other servers run: anything that speaks OpenAI's API."""

import asyncio
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import AlpageError, UsageError
from alpage.llama import Piece, TokenLogprob
from alpage.server.backends.fleet import Endpoints, Fleet, Reply, UpstreamError
from alpage.server.backends.protocol import ModelCard, Pieces, Terms
from alpage.server.backends.upstream_answer import (
    CONTROL_ID,
    ChatReader,
    Reader,
    TextReader,
    usage_of,
)
from alpage.server.backends.upstream_query import (
    EXTENSIONS,
    chat_body,
    estimated,
    text_body,
    texts_of,
)
from alpage.server.errors import RequestError
from alpage.server.queries import ChatQuery, EmbedQuery, TextQuery
from alpage.server.running import Activity, Queue, Waiting, ended

_MOST_DIM = 1 << 16
T = TypeVar("T")


class UpstreamModel:
    """A model under `name`, called `remote` by the servers that run it.

    `extensions`: options beyond OpenAI's that those servers take; others are refused. `context` in
    tokens, where it is known.
    """

    def __init__(
        self,
        name: str,
        remote: str,
        fleet: Endpoints,
        *,
        extensions: Sequence[str] = (),
        context: int | None = None,
        authors: str | None = None,
        licence: str | None = None,
        queue: Queue | None = None,
    ) -> None:
        for extension in extensions:
            if extension not in EXTENSIONS:
                known = ", ".join(EXTENSIONS)
                raise UsageError(f"there is no extension {extension!r:.80}; known are: {known}")
        self.name = name
        self.fleet = Fleet(fleet)
        self._remote = remote
        self._extensions = frozenset(extensions)
        self._activity = Activity(queue)
        self._card = ModelCard(
            name, "upstream", int(time.time()), loaded=True, context=context, authors=authors,
            licence=licence,
        )  # fmt: skip
        known_by = repr((name, remote, fleet.urls))
        self._fingerprint = f"fp_{hashlib.sha256(known_by.encode()).hexdigest()[:12]}"

    @property
    def card(self) -> ModelCard:
        """Its facts."""
        return self._card

    @property
    def fingerprint(self) -> str:
        """A short word, which cannot change with what runs elsewhere."""
        return self._fingerprint

    @property
    def active(self) -> int:
        """Answers under way."""
        return self._activity.count

    def report(self) -> list[dict[str, Any]]:
        """How each of its servers is doing: `breaker` and `active_requests`, in order."""
        return [
            {"breaker": endpoint.breaker.state, "active_requests": endpoint.active}
            for endpoint in self.fleet.endpoints
        ]

    async def leave(self) -> None:
        """Close the connections."""
        await self.fleet.close()

    def end_running(self) -> None:
        """Cancel every answer under way; whoever asked is told."""
        self._activity.end_all()

    def text_of(self, ids: list[int]) -> str:
        """Never: what ids mean is known elsewhere."""
        raise RequestError(
            f"the model {self.name} runs elsewhere: prompts of token ids cannot be echoed",
            param="echo",
        )

    def is_text(self, token: TokenLogprob) -> bool:
        """Whether a token adds to an answer's text; control tokens do not."""
        return token.id != CONTROL_ID

    def prepare(self, query: ChatQuery | TextQuery) -> "UpstreamAnswers":
        """Write the body, without what the other side does not take."""
        if isinstance(query, ChatQuery):
            body, estimate = chat_body(query, self._extensions), estimated(texts_of(query))
            path, answers = "/chat/completions", query.choices
        else:
            body, estimate = text_body(query, self._extensions), estimated(query.prompts)
            path, answers = "/completions", len(query.prompts) * query.choices
        self._activity.check(answers, estimate)
        return UpstreamAnswers(
            self, self._activity, path, body | {"model": self._remote}, query, answers, estimate
        )

    def prepare_embedding(self, query: EmbedQuery) -> "UpstreamVectors":
        """Write the body."""
        inputs = [text if isinstance(text, str) else list(text) for text in query.inputs]
        for index, text in enumerate(inputs):
            if not text:
                raise RequestError(
                    f"text {index} is empty: there is nothing to embed", param="input"
                )
        self._activity.check(len(inputs), estimated(inputs))
        body = {"model": self._remote, "input": inputs, "encoding_format": "float"}
        return UpstreamVectors(self, self._activity, body, estimated(inputs))


@dataclass(frozen=True, slots=True)
class UpstreamAnswers:
    """A query's body, ready to be sent. `prompt_tokens` is an estimate."""

    model: UpstreamModel
    activity: Activity
    path: str
    body: Mapping[str, Any]
    query: ChatQuery | TextQuery
    answers: int
    prompt_tokens: int

    @property
    def choices(self) -> int:
        """Answers of each prompt."""
        return self.query.choices

    @property
    def answer_tokens(self) -> int | None:
        """The most tokens that all answers may have together."""
        most = self.body.get("max_tokens")
        return None if most is None else most * self.answers

    @property
    def room(self) -> int | None:
        """Not known: their tokens are counted elsewhere."""
        return None

    def bounded(self, tokens: int) -> "UpstreamAnswers":
        """The same with at most `tokens` in all answers together, a share for each."""
        share = max(1, tokens // self.answers)
        given = self.body.get("max_tokens")
        most = share if given is None else min(share, given)
        return dataclasses.replace(self, body={**self.body, "max_tokens": most})

    def run(self, terms: Terms) -> "UpstreamRun":
        """Start; leaving the context ends what still runs."""
        return UpstreamRun(self, terms)

    def reader(self) -> Reader:
        """What puts the answers together."""
        query, fault = self.query, self._fault
        if isinstance(query, ChatQuery):
            return ChatReader(self.answers, self.prompt_tokens, query.stop, fault)
        echoes = bool(self.body.get("echo"))
        echoed = [
            prompt if echoes and isinstance(prompt, str) else ""
            for prompt in query.prompts
            for _ in range(query.choices)
        ]
        return TextReader(self.answers, self.prompt_tokens, query.stop, fault, echoed)

    def _fault(self, what: str) -> AlpageError:
        return UpstreamError(self.model.name, what)


class UpstreamRun:
    """One request to a fleet while it is answered. `async with` it, then iterate once."""

    def __init__(self, asked: UpstreamAnswers, terms: Terms) -> None:
        self._asked = asked
        self._activity = asked.activity
        self._waiting: Waiting | None = None
        self._stack = AsyncExitStack()
        self._reader = asked.reader()
        limits = (terms.timeout, asked.query.options.get("timeout"))
        self._until = _now() + min((t for t in limits if t is not None), default=math.inf)
        self._bound: asyncio.Timeout | None = None
        self._ended = False

    async def __aenter__(self) -> Pieces:
        asked, activity = self._asked, self._activity
        share = asked.prompt_tokens // asked.answers
        self._waiting = activity.admit([share] * asked.answers)
        activity.count += asked.answers
        activity.cancels.add(self.cancel)
        return self._pieces()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # With the error: one of the upstream's counts against it.
            await self._stack.__aexit__(kind, error, trace)
        finally:
            if self._waiting is not None:
                self._waiting.end()
            self._activity.count -= self._asked.answers
            self._activity.cancels.discard(self.cancel)

    def cancel(self) -> None:
        """End it: the iteration raises, if it still goes on."""
        self._ended = True
        if self._bound is not None:
            self._bound.reschedule(_now())

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        options = self._asked.model.fleet.options
        reader = self._reader
        try:
            reply = await self._within(self._sent(), math.inf)
            patience = options.first_byte
            while (event := await self._within(reply.event(), patience)) is not None:
                for index, piece in reader.read(event):
                    if self._waiting is not None:
                        self._waiting.begin(index)
                    yield index, piece
                patience = options.idle
            if not reader.complete:
                raise reply.fault("broke its answer off in the middle")
        except _TooLateError:
            pass
        for index, piece in reader.last("deadline"):
            yield index, piece

    async def _sent(self) -> Reply:
        body = await asyncio.to_thread(_encoded, self._asked.body)
        return await self._stack.enter_async_context(
            self._asked.model.fleet.post(self._asked.path, body)
        )

    async def _within(self, work: Coroutine[Any, Any, T], patience: float) -> T:
        """The result of `work`, unless this run ends first; seconds of `patience` with the server.

        Only this wait is cut short, never what the consumer of the pieces does between two.
        """
        if self._ended or self._until <= _now():
            work.close()
            raise ended() if self._ended else _TooLateError
        try:
            when = min(self._until, _now() + patience)
            async with asyncio.timeout_at(None if when == math.inf else when) as self._bound:
                return await work
        except TimeoutError:
            if self._ended:
                raise ended() from None
            if self._until <= _now():
                raise _TooLateError from None
            name = self._asked.model.name
            raise UpstreamError(name, f"has said nothing for {patience:g} seconds", 504) from None
        finally:
            self._bound = None


@dataclass(slots=True)
class UpstreamVectors:
    """Texts to embed. `prompt_tokens` is an estimate until the vectors are there."""

    model: UpstreamModel
    activity: Activity
    body: Mapping[str, Any]
    prompt_tokens: int

    async def run(self, terms: Terms) -> NDArray[np.float32]:
        """One vector of length 1 for each text: [texts, dim]."""
        count, fleet = len(self.body["input"]), self.model.fleet
        waiting = self.activity.admit([self.prompt_tokens // count] * count)
        self.activity.count += count
        try:
            async with asyncio.timeout(terms.timeout):
                body = await asyncio.to_thread(_encoded, self.body)
                async with fleet.post("/embeddings", body) as reply:
                    found = await reply.whole()
                    vectors = await asyncio.to_thread(_vectors, found, count, reply)
            usage = usage_of(found.get("usage"))
            if usage is not None:
                self.prompt_tokens = usage.prompt_tokens
            return vectors
        except TimeoutError:
            raise UpstreamError(self.model.name, "has not answered in time", 504) from None
        finally:
            waiting.end()
            self.activity.count -= count


def _vectors(found: Mapping[str, Any], count: int, reply: Reply) -> NDArray[np.float32]:
    """The vectors in the order of the texts, each checked and scaled to length 1."""
    data = found.get("data")
    if not isinstance(data, list) or len(data) != count:
        raise reply.fault("sends another number of vectors than there were texts")
    rows: list[Any] = [None] * count
    for place, entry in enumerate(data):
        index = entry.get("index", place) if isinstance(entry, dict) else None
        if type(index) is not int or not 0 <= index < count or rows[index] is not None:
            raise reply.fault("sends vectors whose numbers were not asked for")
        rows[index] = entry.get("embedding")
    if not all(isinstance(row, list) and 0 < len(row) <= _MOST_DIM for row in rows):
        raise reply.fault("sends something else than vectors")
    try:
        made = np.array(rows, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise reply.fault("sends something else than vectors") from None
    lengths = np.linalg.norm(made, axis=-1, keepdims=True)
    if made.ndim != 2 or not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
        raise reply.fault("sends vectors without a length")
    return np.asarray(made / lengths, np.float32)


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _now() -> float:
    return asyncio.get_running_loop().time()


class _TooLateError(Exception):
    """The time that the request was given is over."""
