"""Items of the Responses API: what clients send, what is kept, and what templates read."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field
from pydantic import Tag as Kind

from alpage.server.errors import RequestError
from alpage.server.openai.answers import call_id
from alpage.server.openai.fields import MAX_ITEMS, MAX_PARTS, Fields, Name, Refused

JsonItem = dict[str, Any]
"""An item as it is kept and shown: with its id and status."""

Id = Annotated[str, Field(min_length=1, max_length=128)]
Status = Literal["in_progress", "completed", "incomplete"]


class TextPart(Fields):
    """Text to the model (`input_text`) or from it (`output_text`)."""

    type: Literal["input_text", "output_text"]
    text: str
    # Clients send an earlier answer back as it was.
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = None


Parts = Annotated[list[TextPart], Field(fail_fast=True, max_length=MAX_PARTS)]


class MessageItem(Fields):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Parts
    id: Id | None = None
    status: Status | None = None
    phase: Refused = None

    def kept(self) -> JsonItem:
        """The item as it is kept."""
        kind = "output_text" if self.role == "assistant" else "input_text"
        texts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        parts: list[JsonItem] = [{"type": kind, "text": text} for text in texts]
        if kind == "output_text":
            parts = [{**part, "annotations": []} for part in parts]
        return {
            "id": self.id or new_id("msg"), "type": "message", "role": self.role,
            "status": self.status or "completed", "content": parts,
        }  # fmt: skip


class CallItem(Fields):
    """A call of a function that the model made earlier; `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: Id
    name: Name
    arguments: str
    id: Id | None = None
    status: Status | None = None
    # Of programs and namespaces that call functions, which there are none of.
    async_: Annotated[Literal[False] | None, Field(alias="async")] = None
    caller: Refused = None
    namespace: Refused = None

    def kept(self) -> JsonItem:
        """The item as it is kept."""
        return call_item(self.name, self.arguments, self.call_id, self.id, self.status)


class OutputItem(Fields):
    """What a function gave back."""

    type: Literal["function_call_output"]
    call_id: Id
    output: str | Parts
    id: Id | None = None
    status: Status | None = None
    name: Refused = None
    caller: Refused = None
    namespace: Refused = None

    def kept(self) -> JsonItem:
        """The item as it is kept."""
        output = self.output
        if not isinstance(output, str):
            output = "\n".join(part.text for part in output)
        return {
            "id": self.id or new_id("fc"), "type": "function_call_output",
            "call_id": self.call_id, "output": output, "status": self.status or "completed",
        }  # fmt: skip


def _kind(value: Any) -> str:
    """The type of an item; messages need not name theirs."""
    given = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "message" if given is None else str(given)


Item = Annotated[
    Annotated[MessageItem, Kind("message")]
    | Annotated[CallItem, Kind("function_call")]
    | Annotated[OutputItem, Kind("function_call_output")],
    Discriminator(_kind),
]
Items = Annotated[list[Item], Field(fail_fast=True, max_length=MAX_ITEMS)]


def new_id(prefix: str) -> str:
    """A name that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(24)}"


def call_item(
    name: str,
    arguments: str,
    call: str | None = None,
    item: str | None = None,
    status: Status | None = None,
) -> JsonItem:
    """A call of a function as an item; new names where none are given."""
    return {
        "id": item or new_id("fc"), "type": "function_call", "call_id": call or call_id(),
        "name": name, "arguments": arguments, "status": status or "completed",
    }  # fmt: skip


def kept_items(given: str | Sequence[MessageItem | CallItem | OutputItem]) -> list[JsonItem]:
    """Input as it is kept; text alone is the user's message."""
    if isinstance(given, str):
        return [MessageItem(role="user", content=given).kept()]
    return [item.kept() for item in given]


def messages_of(items: Sequence[JsonItem]) -> list[dict[str, Any]]:
    """The conversation that items are, in the form of chats.

    Calls belong to the message of the assistant that they follow. A RequestError for the output
    of a call that nobody made.
    """
    messages: list[dict[str, Any]] = []
    called: set[str] = set()
    for item in items:
        if item["type"] == "message":
            role = "system" if item["role"] == "developer" else item["role"]
            parts = [{"type": "text", "text": part["text"]} for part in item["content"]]
            content = parts if len(parts) > 1 else "".join(part["text"] for part in parts)
            messages.append({"role": role, "content": content})
        elif item["type"] == "function_call":
            called.add(item["call_id"])
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant"})
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
        else:
            if item["call_id"] not in called:
                raise RequestError(
                    f"there is no function_call with the call_id {item['call_id']!r}, whose "
                    "output is given",
                    param="input",
                )
            output = {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
            messages.append(output)
    return messages
