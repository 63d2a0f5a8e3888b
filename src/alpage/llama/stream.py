"""Token events to text: decoding, stop strings and tool calls, piece by piece."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alpage.chat import ContentDelta, StopStrings, ToolCall, ToolCallEnd, ToolCallStream
from alpage.core.errors import CapacityError
from alpage.core.types import SamplingParams, Usage
from alpage.engine.engine import End, Ticket
from alpage.engine.protocol import (
    EmbeddingEvent,
    Event,
    FailEvent,
    FinishEvent,
    PromptEvent,
    TokenEvent,
    Top,
)
from alpage.llama.calls import Calls
from alpage.llama.results import Completion, Piece, TokenLogprob, joined
from alpage.llama.text import TextSide
from alpage.tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from alpage.engine.grammar import Grammar

ItemHandler = Callable[[Piece | BaseException], object]
"""Takes each piece, the last one with a finish reason, or, instead of that, the error."""


@dataclasses.dataclass(frozen=True, slots=True)
class TextRequest:
    """A prompt in ids, how to answer it, and how to read the answer.

    `stop`: stop strings, not part of the answer. `calls`: which calls of tools are cut out of the
    text; None looks for none. `prompt_logprobs` scores the prompt; `answer=False`
    does nothing else. `grammar`: what the answer has to follow. The other fields are
    those of `engine.protocol.Request`.
    """

    prompt: Sequence[int]
    sampling: SamplingParams
    stop: Sequence[str] = ()
    calls: Calls | None = None
    prompt_logprobs: bool = False
    answer: bool = True
    speculate: bool = True
    tenant: str = ""
    priority: int = 0
    timeout: float | None = None
    adapter: str | None = None
    grammar: "Grammar | None" = None
    weight: float = 1.0


class Assembler:
    """Turns the events of one request into pieces. Runs in the engine's thread.

    There, a stop string ends its request before the next forward pass, whoever reads the pieces.
    """

    def __init__(self, request: TextRequest, side: TextSide, deliver: ItemHandler) -> None:
        self._deliver = deliver
        self._tokenizer = side.tokenizer
        self._decoder = StreamDecoder(side.tokenizer, after=request.prompt)
        self._stops = StopStrings(request.stop)
        asked = request.calls
        self._calls = None if asked is None else ToolCallStream(asked.names, asked.notation)
        self._single = asked is not None and asked.single
        self._called = False
        self._shown = frozenset() if asked is None else side.shown_in_calls
        self._wants_logprobs = request.sampling.top_logprobs is not None
        self._prompt = request.prompt
        self._tokens = 0

    def on_event(self, event: Event) -> bool:
        """Deliver what `event` adds; True once a stop string or the only call was found."""
        if isinstance(event, TokenEvent):
            if not self._ended:
                self._deliver(self._token(event))
            return self._ended
        if isinstance(event, PromptEvent):
            self._deliver(Piece(prompt_logprobs=self._scored(event)))
        elif isinstance(event, FinishEvent):
            self._deliver(self._last(event))
        elif isinstance(event, FailEvent):
            self._deliver(event.error)
        return False

    @property
    def _ended(self) -> bool:
        return self._called or self._stops.stopped is not None

    def _token(self, event: TokenEvent) -> Piece:
        self._tokens += 1
        text, calls = self._read(self._decoded(event.token), last=False)
        logprobs = None
        if self._wants_logprobs:
            entry = _entry(self._tokenizer, event.token, event.logprob, event.top)
            logprobs = (entry,)
        return Piece(text, (event.token,), logprobs, calls)

    def _decoded(self, token: int) -> str:
        if token >= self._tokenizer.vocab_size:  # weights padded beyond the vocabulary
            return ""
        if token in self._shown:
            shown = self._tokenizer.token_bytes(token).decode("utf-8", "replace")
            return self._decoder.flush() + shown
        return self._decoder.push(token)

    def _read(self, text: str, *, last: bool) -> tuple[str, tuple[ToolCall, ...]]:
        """What of `text` may be shown now, and the calls that it completes."""
        text, stopped = self._stops.push(text)
        if last and not stopped:
            text += self._stops.flush()
        if self._calls is None:
            return text, ()
        if self._called:
            return "", ()
        events = self._calls.push(text)
        if last:
            events += self._calls.finish()
        ends = [at for at, event in enumerate(events) if isinstance(event, ToolCallEnd)]
        if self._single and ends:
            self._called = True
            events = events[: ends[0] + 1]
        content = "".join(event.text for event in events if isinstance(event, ContentDelta))
        return content, tuple(event.call for event in events if isinstance(event, ToolCallEnd))

    def _last(self, event: FinishEvent) -> Piece:
        ended = self._ended
        text, calls = self._read(self._decoder.flush(), last=True)
        stop = self._stops.stopped
        return Piece(
            text,
            tool_calls=calls,
            finish_reason="stop" if ended or stop is not None else event.reason,
            usage=dataclasses.replace(event.usage, completion_tokens=self._tokens),
            stop=stop,
        )

    def _scored(self, event: PromptEvent) -> tuple[TokenLogprob, ...]:
        return tuple(
            _entry(self._tokenizer, token, logprob, top)
            for token, logprob, top in zip(self._prompt, event.logprobs, event.top, strict=True)
        )


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None, top: Top) -> TokenLogprob:
    likely = tuple(TokenLogprob(i, _bytes_of(tokenizer, i), value) for i, value in top)
    return TokenLogprob(token, _bytes_of(tokenizer, token), logprob, likely)


def _bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    return tokenizer.token_bytes(token) if token < tokenizer.vocab_size else b""


class EmbeddingHandler:
    """Waits for the vector of one text: `deliver` gets it, or the error, once."""

    def __init__(self, deliver: Callable[[NDArray[np.float32] | BaseException], object]) -> None:
        self._deliver = deliver
        self._vector: NDArray[np.float32] | None = None

    def on_event(self, event: Event) -> bool:
        """Take an event of the request, as `Engine.start` has it."""
        if isinstance(event, EmbeddingEvent):
            self._vector = event.vector
        elif isinstance(event, FailEvent):
            self._deliver(event.error)
        elif isinstance(event, FinishEvent):
            self._deliver(_unfinished(event) if self._vector is None else self._vector)
        return False


def _unfinished(event: FinishEvent) -> CapacityError:
    return CapacityError(f"the text was not embedded: {event.reason}")


class TextStream:
    """An answer on its way: iterate over its pieces, `cancel` it, or wait for its `result`.

    Dropping it, or leaving the iteration early, cancels the request. One thread reads it.
    """

    def __init__(
        self, request: TextRequest, side: TextSide, start: Callable[[Assembler], Callable[[], None]]
    ) -> None:
        """Begin: `start` submits the request with the assembler, and gives how to cancel it."""
        items: SimpleQueue[Piece | End] = SimpleQueue()
        assembler = Assembler(request, side, functools.partial(_hand_over, items))
        self._ticket = Ticket(items, start(assembler))
        self._pieces: list[Piece] = []
        self._prompt_tokens = len(request.prompt)

    def cancel(self) -> None:
        """End the answer within one step; its last piece says "cancelled". From any thread."""
        self._ticket.cancel()

    def __iter__(self) -> Iterator[Piece]:
        """Pieces as they come, once; raises the error of a request that failed."""
        for piece in self._ticket:
            self._pieces.append(piece)
            yield piece

    def result(self) -> Completion:
        """Wait for the end; everything from the first piece on, also those already read."""
        for _ in self:
            pass
        tokens = sum(len(piece.tokens) for piece in self._pieces)
        left_early = Piece(finish_reason="cancelled", usage=Usage(self._prompt_tokens, tokens))
        return joined(self._pieces, left_early)


def _hand_over(items: "SimpleQueue[Piece | End]", item: Piece | BaseException) -> None:
    if isinstance(item, BaseException):
        items.put(End(item))
        return
    items.put(item)
    if item.finish_reason is not None:
        items.put(End())
