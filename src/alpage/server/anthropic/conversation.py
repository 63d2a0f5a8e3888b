"""Anthropic's messages in OpenAI's form, which models are asked in."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from alpage.server.anthropic.blocks import (
    InputMessage,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    text_of,
)
from alpage.server.errors import RequestError


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in OpenAI's form; `begun`: how the answer begins."""

    messages: list[dict[str, Any]]
    begun: str


@dataclass(slots=True)
class _Turn:
    """Messages of one role that follow each other; `where` the first of them stands."""

    role: Literal["user", "assistant", "system"]
    where: str
    texts: list[TextBlock] = field(default_factory=list)
    uses: dict[str, ToolUseBlock] = field(default_factory=dict)
    results: dict[str, ToolResultBlock] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return text_of(self.texts)

    def add(self, message: InputMessage, where: str) -> None:
        """Take one more message, block by block; a RequestError for what its role cannot say."""
        for index, block in enumerate(message.blocks):
            place = f"{where}.content[{index}]"
            if isinstance(block, TextBlock):
                self.texts.append(block)
            elif isinstance(block, ToolUseBlock):
                self._needs("assistant", block.type, place)
                if block.id in self.uses:
                    raise RequestError(f"{place}: there is a tool_use {block.id!r:.80} already")
                self.uses[block.id] = block
            else:
                self._needs("user", block.type, place)
                self._add_result(block, place)

    def _add_result(self, block: ToolResultBlock, place: str) -> None:
        if self.texts:
            raise RequestError(f"{place}: tool_result blocks have to stand before the text")
        if block.tool_use_id in self.results:
            raise RequestError(
                f"{place}: there is a tool_result for {block.tool_use_id!r:.80} already"
            )
        self.results[block.tool_use_id] = block

    def _needs(self, role: str, kind: str, place: str) -> None:
        if self.role != role:
            raise RequestError(f"{place}: a {kind} block cannot stand in a message of {self.role}")


def conversation(system: str | None, messages: Sequence[InputMessage]) -> Conversation:
    """The whole of it. A RequestError for calls without results, and results without calls."""
    turns = _turns(messages)
    begun = ""
    if turns and turns[-1].role == "assistant" and not turns[-1].uses:
        begun = turns.pop().text
    converted: list[dict[str, Any]] = []
    if system is not None:
        converted.append({"role": "system", "content": system})
    open_calls: dict[str, ToolUseBlock] = {}
    for turn in turns:
        _check_results(turn, open_calls)
        converted += _converted(turn, open_calls)
        open_calls = turn.uses
    if open_calls:
        raise RequestError(f"{turns[-1].where}: {_unanswered(open_calls)}", param="messages")
    if not turns:
        raise RequestError("messages: there is nothing to answer", param="messages")
    return Conversation(converted, begun)


def _turns(messages: Sequence[InputMessage]) -> list[_Turn]:
    turns: list[_Turn] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not turns or turns[-1].role != message.role:
            turns.append(_Turn(message.role, where))
        turns[-1].add(message, where)
    return turns


def _check_results(turn: _Turn, open_calls: dict[str, ToolUseBlock]) -> None:
    for name in turn.results:
        if name not in open_calls:
            raise RequestError(
                f"{turn.where}: the tool_result for {name!r:.80} answers no tool_use of the "
                "message before",
                param="messages",
            )
    missing = {name: use for name, use in open_calls.items() if name not in turn.results}
    if missing:
        raise RequestError(f"{turn.where}: {_unanswered(missing)}", param="messages")


def _unanswered(calls: dict[str, ToolUseBlock]) -> str:
    name = next(iter(calls))
    return f"the tool_use {name!r:.80} needs a tool_result in the message after it"


def _converted(turn: _Turn, open_calls: dict[str, ToolUseBlock]) -> list[dict[str, Any]]:
    """A turn as messages: one, or one for each result and one for the text."""
    if turn.uses:
        calls = [_call(use) for use in turn.uses.values()]
        return [{"role": "assistant", "content": turn.text or None, "tool_calls": calls}]
    # In the order of the calls, which is all that many templates show of what belongs together.
    results = [
        {
            "role": "tool",
            "tool_call_id": name,
            "name": use.name,
            "content": turn.results[name].text,
        }
        for name, use in open_calls.items()
    ]
    if results and not turn.texts:
        return results
    return [*results, {"role": turn.role, "content": turn.text}]


def _call(use: ToolUseBlock) -> dict[str, Any]:
    arguments = json.dumps(use.input, ensure_ascii=False)
    function = {"name": use.name, "arguments": arguments}
    return {"id": use.id, "type": "function", "function": function}
