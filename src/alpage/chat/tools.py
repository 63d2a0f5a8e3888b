"""Finding tool calls in what a model writes, whole or while it streams.

Forms, by where they may stand:
  anywhere         <tool_call>{...}</tool_call>, <function=name>{...}</function>,
                   <|python_tag|> ... to the end of the answer (built-in, JSON or code)
  whole answer     {"name": ..., "parameters": {...}} (one or more), [f(a=1), g(b="x")]
Whatever turns out to be no call stays content, to the letter. Spaces between content and a call
are dropped. The events are the same however the text is divided into pushes, apart from how
content is divided; each character is looked at a bounded number of times.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum

from alpage.chat.calls import (
    ToolCall,
    calls_from_json,
    calls_from_python,
    calls_from_python_tag,
    load_json,
    make_call,
    strip_terminators,
    valid_name,
)
from alpage.chat.scanner import JsonCandidate, JsonStrings, PythonCandidate


class Notation(Enum):
    """How calls are written, where that is decided beforehand: the value begins each one."""

    TAGGED = "<tool_call>"
    FUNCTION = "<function="
    BARE = "{"


_PYTHON_TAG = "<|python_tag|>"
_FUNCTION, _FUNCTION_END = Notation.FUNCTION.value, "</function>"
_TOOL_CALL, _TOOL_CALL_END = Notation.TAGGED.value, "</tool_call>"
_TAGS = (_PYTHON_TAG, _FUNCTION, _TOOL_CALL)
_SLICE = 4096
_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """Call number `index` (from 0) of this answer begins; `name` is the function's."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The call is complete; `call` holds all of it."""

    index: int
    call: ToolCall


ToolEvent = ContentDelta | ToolCallStart | ArgumentsDelta | ToolCallEnd


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer in two parts; `content` is "" when the answer is nothing but calls."""

    content: str
    tool_calls: list[ToolCall] = field(default_factory=list)


def parse_tool_calls(text: str, known_tools: Collection[str] | None = None) -> ParsedAnswer:
    """Split a complete answer into content and tool calls.

    With `known_tools` only calls of these names count, all else stays content. Code after
    `<|python_tag|>` becomes a call of `code_interpreter` (or `python`, `ipython`, whichever is
    known) with the argument `code`.
    """
    stream = ToolCallStream(known_tools)
    events = stream.push(text) + stream.finish()
    content = "".join(event.text for event in events if isinstance(event, ContentDelta))
    return ParsedAnswer(content, [e.call for e in events if isinstance(e, ToolCallEnd)])


class ToolCallStream:
    """The same for text that arrives in pieces; call `finish` once at the end.

    A call is given out when it is complete, as start, arguments and end together: only then is it
    certain to be a call. Use a new object for each answer. With a `notation`, calls in others are
    text, and numbers too large to be read are the largest that can: such answers follow a grammar,
    and no call of theirs may be lost.
    """

    def __init__(
        self, known_tools: Collection[str] | None = None, notation: Notation | None = None
    ) -> None:
        self._known = None if known_tools is None else frozenset(known_tools)
        self._notation = notation
        self._tags = tuple(tag for tag in _TAGS if notation is None or tag == notation.value)
        self._any_tag = re.compile("|".join(map(re.escape, self._tags)) or r"(?!)")
        self._whole = "{[" if notation is None else "{" if notation is Notation.BARE else ""
        self._clamped = notation is not None
        self._strings = JsonStrings()
        self._state: Callable[[str], str] = self._at_start
        self._events: list[ToolEvent] = []
        self._held: list[str] = []  # text of the open candidate or tag, in pieces
        self._tail = ""  # the end of content or of a tag's text, where a tag may have begun
        self._spaces: list[str] = []  # held until it is known what follows
        self._candidate: JsonCandidate | PythonCandidate | None = None
        self._calls = 0
        self._wrote = False

    def push(self, text: str) -> list[ToolEvent]:
        """Take more text; give the events that are certain now."""
        self._read(text)
        return self._taken()

    def finish(self) -> list[ToolEvent]:
        """Give what was held back, at the end of the answer."""
        if self._state == self._in_candidate:
            self._end_candidate()  # may leave any other state
        if self._state == self._in_python_tag:
            whole = "".join(self._held)
            self._close(whole, calls_from_python_tag(whole[len(_PYTHON_TAG) :], self._known))
        elif self._state == self._in_block:
            # A model may end its answer instead of closing the block.
            self._end_block("".join(self._held) + self._tail, closed=False)
        elif self._state in (self._in_function_name, self._at_block_start):
            self._close("".join(self._held), None)
        if self._tail:
            self._write(self._tail)
        if not self._calls and self._spaces:
            self._events.append(ContentDelta("".join(self._spaces)))
        self._tail, self._spaces = "", []
        return self._taken()

    def _taken(self) -> list[ToolEvent]:
        events, self._events = self._events, []
        return events

    def _read(self, text: str) -> None:
        # In slices: states copy what they leave over, which must not cost the whole text each.
        waiting = [(text, 0)]
        while waiting:
            text, position = waiting.pop()
            if position + _SLICE < len(text):
                waiting.append((text, position + _SLICE))
            if part := text[position : position + _SLICE]:
                waiting.append((self._state(part), 0))

    # Each state takes text and gives back the part that the next state has to read.

    def _at_start(self, text: str) -> str:
        rest = text.lstrip()
        self._spaces.append(text[: len(text) - len(rest)])
        if rest:
            self._state = self._in_content
            if rest[0] in self._whole:
                self._candidate = JsonCandidate() if rest[0] == "{" else PythonCandidate()
                self._state = self._in_candidate
        return rest

    def _in_candidate(self, text: str) -> str:
        self._held.append(text)
        if self._candidate is not None and self._candidate.feed(text):
            return ""
        return self._refute()

    def _refute(self) -> str:
        self._state = self._in_content
        whole = "".join(self._held)
        self._held = []
        return whole

    def _end_candidate(self) -> None:
        whole = strip_terminators("".join(self._held))
        if isinstance(self._candidate, JsonCandidate):
            calls = calls_from_json(whole, self._known, clamped=self._clamped)
        else:
            calls = calls_from_python(whole, self._known)
        if calls:
            self._close("", calls)
            return
        self._read(self._refute())

    def _in_content(self, text: str) -> str:
        text = self._tail + text
        self._tail = ""
        if found := self._any_tag.search(text):
            at, tag = found.start(), found.group()
            self._write(text[:at])
            self._held = [tag]
            self._state = {
                _PYTHON_TAG: self._in_python_tag,
                _FUNCTION: self._in_function_name,
                _TOOL_CALL: self._at_block_start,
            }[tag]
            return text[at + len(tag) :]
        keep = min((_possible_start(text, tag) for tag in self._tags), default=len(text))
        self._write(text[:keep])
        self._tail = text[keep:]
        return ""

    def _in_python_tag(self, text: str) -> str:
        self._held.append(text)
        return ""

    def _in_function_name(self, text: str) -> str:
        name = "".join(self._held[1:])
        end = text.find(">")
        more = text if end < 0 else text[:end]
        if not valid_name((name + more[: _LONGEST_NAME + 1]) or "?"):
            # Not `<function=name>`: content. What follows may hold a real tag.
            rest = name + text
            self._close(_FUNCTION, None)
            return rest
        if end < 0:
            self._held.append(more)
            return ""
        self._held = [f"{_FUNCTION}{name}{more}>"]
        self._state = self._at_block_start
        return text[end + 1 :]

    def _at_block_start(self, text: str) -> str:
        rest = text.lstrip()
        self._held.append(text[: len(text) - len(rest)])
        if rest and rest[0] in "{[":
            self._strings = JsonStrings()
            self._state = self._in_block
        elif rest:  # someone only writes about the tag
            self._close("".join(self._held), None)
        return rest

    def _in_block(self, text: str) -> str:
        closing = _TOOL_CALL_END if self._held[0] == _TOOL_CALL else _FUNCTION_END
        text = self._tail + text
        self._tail = ""
        start = 0
        while (at := text.find(closing, start)) >= 0:
            if not self._strings.feed(text[start:at]):
                self._held.append(text[:at])
                self._end_block("".join(self._held), closed=True)
                return text[at + len(closing) :]
            start = at + len(closing)  # an argument says it
        keep = max(start, _possible_start(text, closing))
        self._strings.feed(text[start:keep])
        self._held.append(text[:keep])
        self._tail = text[keep:]
        return ""

    def _end_block(self, whole: str, *, closed: bool) -> None:
        opening = self._held[0]
        self._tail = ""
        body = whole[len(opening) :]
        if not closed:
            body = strip_terminators(body)
        if opening == _TOOL_CALL:
            calls = calls_from_json(body, self._known, clamped=self._clamped)
            closing = _TOOL_CALL_END
        else:
            arguments = load_json(body, clamped=self._clamped)
            call = make_call(opening[len(_FUNCTION) : -1], arguments, self._known)
            calls = [call] if call else None
            closing = _FUNCTION_END
        self._close(whole + (closing if closed else ""), calls)

    def _close(self, whole: str, calls: list[ToolCall] | None) -> None:
        """End a candidate or tag: `calls`, or `whole` as content."""
        self._held = []
        self._state = self._in_content
        if not calls:
            self._write(whole)
            return
        self._spaces = []
        for call in calls:
            index = self._calls
            self._calls += 1
            self._events.append(ToolCallStart(index, call.name))
            self._events.append(ArgumentsDelta(index, call.arguments))
            self._events.append(ToolCallEnd(index, call))

    def _write(self, text: str) -> None:
        """Give out content; spaces at its end wait, because a call may follow them."""
        body = text.rstrip()
        if body:
            # Spaces between a call and the first words after it belong to neither.
            fresh = self._calls and not self._wrote
            body = body.lstrip() if fresh else "".join(self._spaces) + body
            self._spaces = []
            self._events.append(ContentDelta(body))
            self._wrote = True
        self._spaces.append(text[len(text.rstrip()) :])


def _possible_start(text: str, tag: str) -> int:
    """Where the longest end of `text` that begins `tag` starts; len(text) if none."""
    start = text.find(tag[0], max(0, len(text) - len(tag) + 1))
    while start >= 0:
        if tag.startswith(text[start:]):
            return start
        start = text.find(tag[0], start + 1)
    return len(text)
