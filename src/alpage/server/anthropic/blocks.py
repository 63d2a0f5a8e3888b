"""Messages and the blocks that they are made of: text, calls of tools and their results."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from alpage.server.openai.fields import Fields, Refused

MAX_MESSAGES = 100_000
MAX_BLOCKS = 100_000


class CacheControl(Fields):
    """Where a client wants the prompt cached: here every prompt is, as long as there is room."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


def _no_citations(value: Any) -> None:
    """Clients send an earlier answer back as it was, and no answer here has citations."""
    if value is not None and value != []:
        raise PydanticCustomError("unsupported", "this server does not support it; leave it out")


class TextBlock(Fields):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Annotated[None, BeforeValidator(_no_citations)] = None


class DirectCaller(Fields):
    """The model itself, and no program that it wrote, called the tool."""

    type: Literal["direct"]


class ToolUseBlock(Fields):
    """A call that the model made earlier."""

    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: DirectCaller | None = None
    toolset_name: Refused = None


TextBlocks = Annotated[list[TextBlock], Field(fail_fast=True, max_length=MAX_BLOCKS)]


class ToolResultBlock(Fields):
    """What a call gave. With `is_error` the model reads "Error: " before it."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | TextBlocks | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: Refused = None

    @property
    def text(self) -> str:
        """What the model reads."""
        text = text_of(self.content or "")
        return f"Error: {text}" if self.is_error else text


def _kind(block: Any) -> Any:
    """The type of a block that has not been checked."""
    kind = block.get("type") if isinstance(block, Mapping) else getattr(block, "type", None)
    # With a space: no field of a block may be taken for the name of a kind in an error's place.
    return f"{kind} block" if isinstance(kind, str) else None


Block = Annotated[
    Annotated[TextBlock, Tag("text block")]
    | Annotated[ToolUseBlock, Tag("tool_use block")]
    | Annotated[ToolResultBlock, Tag("tool_result block")],
    Discriminator(
        _kind,
        custom_error_type="unsupported",
        custom_error_message="supported are blocks of type text, tool_use and tool_result",
    ),
]


class InputMessage(Fields):
    """One message. Which role may say what is checked where the conversation is put together."""

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(fail_fast=True, max_length=MAX_BLOCKS)]

    @property
    def blocks(self) -> Sequence[TextBlock | ToolUseBlock | ToolResultBlock]:
        """The content; a string is one block of text."""
        if isinstance(self.content, str):
            return (TextBlock(type="text", text=self.content),)
        return self.content


def text_of(content: str | Sequence[TextBlock]) -> str:
    """Text of blocks, each on a line of its own."""
    if isinstance(content, str):
        return content
    return "\n".join(block.text for block in content)
