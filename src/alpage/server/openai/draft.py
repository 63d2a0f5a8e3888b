"""The items of a response, built from the pieces of an answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from alpage.chat import ToolCall
from alpage.llama import Piece
from alpage.server.openai.answers import logprob_entry
from alpage.server.openai.items import JsonItem, call_item, new_id


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to item number `index` of the output.

    It opened, it got `text` (with the log-probabilities of its tokens), a call got its `text`,
    the arguments, or it is complete.
    """

    kind: Literal["opened", "text", "arguments", "closed"]
    index: int
    item: JsonItem
    text: str = ""
    logprobs: tuple[dict[str, Any], ...] = ()


class Draft:
    """Items so far: messages and calls, in the order in which the model wrote them."""

    def __init__(self) -> None:
        self.items: list[JsonItem] = []
        self.incomplete = False
        self._message: JsonItem | None = None
        self._texts: list[str] = []
        # Of tokens whose text has not come yet.
        self._waiting: list[dict[str, Any]] = []

    def take(self, piece: Piece) -> Iterator[Step]:
        """What a piece adds."""
        self._waiting += [logprob_entry(token) for token in piece.logprobs or ()]
        if piece.text:
            yield from self._text(piece.text)
        for call in piece.tool_calls:
            self._waiting.clear()  # tokens that wrote the call
            yield from self._close()
            yield from self._call(call)
        if piece.finish_reason is not None:
            self.incomplete = piece.finish_reason != "stop"
            if not self.items or (self._message is not None and self._waiting):
                yield from self._text("")
            yield from self._close()

    def cut_off(self) -> None:
        """Nothing more will come."""
        self.incomplete = True
        for _ in self._close():
            pass

    def _text(self, text: str) -> Iterator[Step]:
        if self._message is None:
            self._message = {
                "id": new_id("msg"), "type": "message", "role": "assistant",
                "status": "in_progress", "content": [],
            }  # fmt: skip
            self.items.append(self._message)
            yield Step("opened", len(self.items) - 1, self._message)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._message["content"] = [part]
        (part,) = self._message["content"]
        self._texts.append(text)
        part["logprobs"] += self._waiting
        step = Step("text", len(self.items) - 1, self._message, text, tuple(self._waiting))
        self._waiting.clear()
        yield step

    def _close(self) -> Iterator[Step]:
        """The open message, if there is one, is complete: or as complete as it gets."""
        if self._message is None:
            return
        self._message["content"][0]["text"] = "".join(self._texts)
        self._message["status"] = "incomplete" if self.incomplete else "completed"
        yield Step("closed", len(self.items) - 1, self._message)
        self._message = None
        self._texts.clear()

    def _call(self, call: ToolCall) -> Iterator[Step]:
        item = call_item(call.name, call.arguments)
        self.items.append(item)
        index = len(self.items) - 1
        yield Step("opened", index, {**item, "arguments": "", "status": "in_progress"})
        yield Step("arguments", index, item, call.arguments)
        yield Step("closed", index, item)
