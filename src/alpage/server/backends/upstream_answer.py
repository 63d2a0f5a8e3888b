"""Events of OpenAI-compatible servers to pieces. Whatever they send is checked first."""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alpage.chat import ToolCall
from alpage.core.types import FinishReason, Usage
from alpage.llama import Piece, TokenLogprob

TEXT_ID = -1
CONTROL_ID = -2
"""Ids that stand for another server's tokens, whose own are not told."""

Numbered = tuple[int, Piece]
Fault = Callable[[str], Exception]

_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
}
_MOST_CALLS = 128
_MOST_ARGUMENTS = 1 << 20
_MOST_COUNT = 1 << 40
_MOST_TOP = 100
_SPELLED = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")
_CONTROL = re.compile(r"<[|/]?[\w.\- ]{1,60}\|?>")


@dataclass(slots=True)
class _Call:
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class _Answer:
    """What is known of one answer: its pieces, the characters that have come, and how it ended.

    `echoed`: characters of its prompt, which come first.
    """

    pieces: int = 0
    text: int = 0
    echoed: int = 0
    reason: FinishReason | None = None
    stop: str | None = None
    calls: dict[int, _Call] = field(default_factory=dict)


class Reader(ABC):
    """Puts together what the events of one response say about all answers.

    The last piece of each is held back until the response ends: only then is the usage known.
    `fault` makes the error for what no server may send.
    """

    def __init__(self, answers: int, estimate: int, stops: Sequence[str], fault: Fault) -> None:
        self.answers = [_Answer() for _ in range(answers)]
        self._estimate = estimate
        self._stops = frozenset(stops)
        self._fault = fault
        self._usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether every answer has ended."""
        return all(answer.reason is not None for answer in self.answers)

    def read(self, event: Mapping[str, Any]) -> list[Numbered]:
        """Pieces that an event adds."""
        if event.get("error") is not None:
            error = event["error"]
            told = error.get("message") if isinstance(error, dict) else error
            raise self._fault(f"failed in the middle of its answer: {told!s:.300}")
        self._usage = self._usage or usage_of(event.get("usage"))
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise self._fault("sends an event without choices")
        found: list[Numbered] = []
        for choice in choices:
            found += self._choice(choice)
        return found

    def _choice(self, choice: Any) -> list[Numbered]:
        index = choice.get("index", 0) if isinstance(choice, dict) else None
        if type(index) is not int or not 0 <= index < len(self.answers):
            raise self._fault("sends a choice whose number was not asked for")
        answer = self.answers[index]
        if answer.reason is not None:
            if choice.get("finish_reason") is None and not self._adds(choice):
                return []
            raise self._fault("goes on with an answer that has ended")
        pieces = self.pieces(answer, choice)
        answer.pieces += sum(bool(p.text or p.logprobs) for p in pieces)
        reason = choice.get("finish_reason")
        if reason is not None:
            if reason not in _FINISH:
                raise self._fault(f"ended the answer for the reason {reason!r:.60}")
            answer.reason = _FINISH[reason]
            stop = choice.get("stop_reason")
            answer.stop = stop if isinstance(stop, str) and stop in self._stops else None
        return [(index, piece) for piece in pieces]

    def _adds(self, choice: Mapping[str, Any]) -> bool:
        delta = choice.get("delta")
        return bool(choice.get("text") or (isinstance(delta, dict) and delta.get("content")))

    @abstractmethod
    def pieces(self, answer: _Answer, choice: Mapping[str, Any]) -> list[Piece]:
        """What a choice's event adds to its answer."""

    def last(self, otherwise: FinishReason | None = None) -> list[Numbered]:
        """The last piece of every answer, with its share of the usage.

        `otherwise`: why those ended that have not ended by themselves.
        """
        counts = self._counts()
        cached = self._usage.cached_tokens if self._usage else 0
        prompt = self._usage.prompt_tokens if self._usage else self._estimate
        found: list[Numbered] = []
        for index, answer in enumerate(self.answers):
            # All prompts' tokens are told with the first answer: servers give one sum.
            mine = (prompt, cached) if index == 0 else (0, 0)
            piece = Piece(
                tool_calls=self._calls(answer),
                finish_reason=answer.reason or otherwise,
                usage=Usage(mine[0], counts[index], cached_tokens=mine[1]),
                stop=answer.stop,
            )
            found.append((index, piece))
        return found

    def _counts(self) -> list[int]:
        """Tokens of each answer: they add up to what the server says, if it says that."""
        counts = [answer.pieces for answer in self.answers]
        if self._usage is None:
            return counts
        rest = self._usage.completion_tokens
        for index, count in enumerate(counts[:-1]):
            counts[index] = min(count, rest)
            rest -= counts[index]
        return [*counts[:-1], rest]

    def _calls(self, answer: _Answer) -> tuple[ToolCall, ...]:
        if answer.reason is None:  # cut off: half a call is none
            return ()
        return tuple(self._called(call) for _, call in sorted(answer.calls.items()))

    def _called(self, call: _Call) -> ToolCall:
        try:
            parsed = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        if not call.name or not isinstance(parsed, dict):
            raise self._fault("calls a tool without a name or with arguments that are no object")
        return ToolCall(call.name, call.arguments or "{}", parsed)

    def text_of(self, value: Any) -> str:
        """A text that may be missing."""
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._fault("sends something else where text belongs")
        return value

    def number(self, value: Any) -> float:
        """A finite number."""
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise self._fault("sends something else where a number belongs")
        return float(value)


class ChatReader(Reader):
    """Events of /chat/completions."""

    def pieces(self, answer: _Answer, choice: Mapping[str, Any]) -> list[Piece]:
        """Text, log-probabilities and parts of calls, which are given whole at the end."""
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise self._fault("sends a choice without a delta")
        self._gather(answer, delta.get("tool_calls") or ())
        text = self.text_of(delta.get("content"))
        given = choice.get("logprobs")
        entries = given.get("content") if isinstance(given, dict) else None
        logprobs = tuple(self._entry(e) for e in entries) if isinstance(entries, list) else None
        return [Piece(text, logprobs=logprobs)] if text or logprobs else []

    def _gather(self, answer: _Answer, deltas: Any) -> None:
        for delta in deltas if isinstance(deltas, list | tuple) else ():
            function = delta.get("function") if isinstance(delta, dict) else None
            place = delta.get("index", 0) if isinstance(delta, dict) else None
            if type(place) is not int or not 0 <= place < _MOST_CALLS:
                raise self._fault("sends a call of a tool without a place")
            call = answer.calls.setdefault(place, _Call())
            if isinstance(function, dict):
                call.name += self.text_of(function.get("name"))
                call.arguments += self.text_of(function.get("arguments"))
            if len(call.arguments) + len(call.name) > _MOST_ARGUMENTS:
                raise self._fault("calls a tool with more than 1 MiB of arguments")

    def _entry(self, entry: Any) -> TokenLogprob:
        if not isinstance(entry, dict):
            raise self._fault("sends log-probabilities that are none")
        top = entry.get("top_logprobs") or ()
        if not isinstance(top, list | tuple) or len(top) > _MOST_TOP:
            raise self._fault("sends log-probabilities that are none")
        likely = tuple(self._entry({**e, "top_logprobs": ()}) for e in top if isinstance(e, dict))
        text, data = self.text_of(entry.get("token")), entry.get("bytes")
        try:
            octets = text.encode("utf-8", "replace") if data is None else bytes(data)
        except (TypeError, ValueError):
            raise self._fault("sends a token whose bytes are none") from None
        return TokenLogprob(TEXT_ID, octets, self.number(entry.get("logprob")), likely)


class TextReader(Reader):
    """Events of /completions; where prompts are scored, each answer's text begins with its own."""

    def __init__(
        self,
        answers: int,
        estimate: int,
        stops: Sequence[str],
        fault: Fault,
        echoed: Sequence[str],
    ) -> None:
        super().__init__(answers, estimate, stops, fault)
        for answer, echo in zip(self.answers, echoed, strict=True):
            answer.echoed = len(echo)

    def pieces(self, answer: _Answer, choice: Mapping[str, Any]) -> list[Piece]:
        """Text and log-probabilities, those of the prompt apart."""
        text, echoed = self.text_of(choice.get("text")), answer.echoed
        begin, answer.text = answer.text, answer.text + len(text)
        rows = self._rows(choice.get("logprobs"), answer.text)
        own = text[max(0, echoed - begin) :]
        of_prompt = tuple(row for offset, row in rows if offset < echoed)
        of_answer = tuple(row for offset, row in rows if offset >= echoed)
        found = []
        if of_prompt:
            found.append(Piece(prompt_logprobs=of_prompt))
        if own or of_answer:
            found.append(Piece(own, logprobs=of_answer or None))
        return found

    def _rows(self, table: Any, end: int) -> list[tuple[int, TokenLogprob]]:
        """Offset and facts of each token; `end`: where the text that has come ends."""
        if table is None:
            return []
        names = ("tokens", "token_logprobs", "text_offset")
        columns = [table.get(name) if isinstance(table, dict) else None for name in names]
        tops = table.get("top_logprobs") if isinstance(table, dict) else None
        tokens = columns[0]
        if not all(isinstance(c, list) and len(c) == len(tokens or ()) for c in columns) or (
            tops is not None and (not isinstance(tops, list) or len(tops) != len(tokens or ()))
        ):
            raise self._fault("sends log-probabilities that are none")
        found: list[tuple[int, TokenLogprob]] = []
        offsets = [int(self.number(offset)) for offset in columns[2] or ()]
        for place, name in enumerate(tokens or ()):
            text = self.text_of(name)
            follows = offsets[place + 1] if place + 1 < len(offsets) else None
            value = (columns[1] or ())[place]
            logprob = None if value is None else self.number(value)
            top = () if tops is None or tops[place] is None else self._top(tops[place])
            octets = _octets(text)
            spelled = text.startswith("bytes:")
            # Control tokens add nothing to the text, so what follows stands at the same place.
            control = (
                follows == offsets[place]
                if follows is not None
                else (_CONTROL.fullmatch(text) is not None)
            )
            kind = CONTROL_ID if control and not spelled else TEXT_ID
            found.append((offsets[place], TokenLogprob(kind, octets, logprob, top)))
        return found

    def _top(self, top: Any) -> tuple[TokenLogprob, ...]:
        if not isinstance(top, dict) or len(top) > _MOST_TOP + 1:
            raise self._fault("sends log-probabilities that are none")
        return tuple(
            TokenLogprob(TEXT_ID, _octets(name), self.number(value)) for name, value in top.items()
        )


def _octets(name: str) -> bytes:
    """A token's bytes out of its name in completions, where bytes that are no text are spelled."""
    spelled = _SPELLED.fullmatch(name)
    if spelled is None:
        return name.encode("utf-8", "replace")
    return bytes.fromhex(spelled.group(1).replace("\\x", ""))


def usage_of(found: Any) -> Usage | None:
    """The tokens that a server says it used; None where it says nothing that can be so."""
    if not isinstance(found, dict):
        return None
    details = found.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counts = [found.get("prompt_tokens"), found.get("completion_tokens", 0), cached or 0]
    if not all(type(count) is int and 0 <= count < _MOST_COUNT for count in counts):
        return None
    prompt, completion, cached = counts
    return Usage(prompt, completion, cached_tokens=min(cached, prompt))
