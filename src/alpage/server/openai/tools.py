"""The functions that a model is offered, and which of them it has to call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from alpage.server.errors import RequestError
from alpage.server.openai.fields import Fields, JsonSchema, Name
from alpage.server.queries import ToolChoice

MAX_TOOLS = 128
Word = Literal["none", "auto", "required"]


class FunctionDefinition(Fields):
    """What a tool does; `parameters` is a JSON schema, which calls follow if `strict`."""

    name: Name
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class Tool(Fields):
    """A function that the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Fields):
    """A function's name."""

    name: Name


class FunctionChoice(Fields):
    """The one function that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Fields):
    """Some of the tools, of which the model may (`auto`) or has to (`required`) call one."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Field(fail_fast=True, max_length=MAX_TOOLS)]


class AllowedChoice(Fields):
    """The choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


@dataclass(frozen=True, slots=True)
class Offer:
    """Tools in the form of chats, and which has to be called: the fields of a ChatQuery."""

    tools: Sequence[Mapping[str, Any]] | None
    choice: ToolChoice = "auto"
    tool: str | None = None


def offer(
    tools: Sequence[Mapping[str, Any]] | None,
    word: Word | None,
    *,
    name: str | None = None,
    allowed: Sequence[str] | None = None,
) -> Offer:
    """What a request offers, or a RequestError for a choice that its tools do not have.

    `name`: of the function that has to be called. `allowed`: names of the only ones on offer.
    """
    known = [tool["function"]["name"] for tool in tools or ()]
    twice = next((n for n in known if known.count(n) > 1), None)
    if twice is not None:
        raise RequestError(f"two tools have the name {twice!r}; give each its own", param="tools")
    if not known and (word == "required" or name is not None or allowed is not None):
        raise RequestError(
            "tool_choice asks for a call, but there are no tools", param="tool_choice"
        )
    for wanted in [name] if name is not None else allowed or ():
        if wanted not in known:
            raise RequestError(
                f"tool_choice names {wanted!r}, which is none of the tools: {', '.join(known)}",
                param="tool_choice",
            )
    if allowed is not None:
        if not allowed:
            raise RequestError("tool_choice allows no tool at all", param="tool_choice")
        tools = [tool for tool in tools or () if tool["function"]["name"] in allowed]
    return Offer(tools or None, word or "auto", name)
