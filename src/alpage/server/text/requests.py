"""The bodies of Alpage's own text routes."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from alpage.core.types import Message
from alpage.server.errors import RequestError
from alpage.server.openai.chat_request import ChatMessage
from alpage.server.openai.fields import Body, Fields
from alpage.server.openai.tools import Tool

MAX_CHARACTERS = 1 << 20
MAX_PIECES = 1 << 16
MAX_DOCUMENTS = 1000
_MAX_TOOLS = 128

Model = Annotated[str, Field(min_length=1)]
Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]
SomeText = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
Messages = Annotated[list[ChatMessage], Field(fail_fast=True)]
Tools = Annotated[list[Tool], Field(fail_fast=True, max_length=_MAX_TOOLS)]


def shown_messages(messages: list[ChatMessage] | None) -> list[Message]:
    """Messages as templates read them."""
    return [message.for_template() for message in messages or ()]


def shown_tools(tools: list[Tool] | None) -> list[Mapping[str, Any]] | None:
    """Tools as templates read them; None for none."""
    return [tool.model_dump(exclude_unset=True) for tool in tools or ()] or None


class TokenizeRequest(Body):
    """A text, or a conversation in the model's template.

    `add_special` puts the begin-of-text token first where the model expects one; with
    `parse_special` texts like <|im_end|> become control tokens. `pieces` tells what each id is.
    """

    model: Model
    text: Text | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    pieces: bool = False

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        if (self.text is None) == (self.messages is None):
            raise RequestError("give one of text and messages", param="text")
        if self.messages is not None:
            for name in ("add_special", "parse_special"):
                if getattr(self, name) is not None:
                    raise RequestError(
                        f"{name} works with text only: of messages the template decides",
                        param=name,
                    )
        elif self.tools is not None:
            raise RequestError("tools work with messages only", param="tools")


class DetokenizeRequest(Body):
    """Token ids; the text is without control tokens."""

    model: Model
    tokens: Annotated[list[int], Field(fail_fast=True, max_length=MAX_CHARACTERS)]


class ApplyTemplateRequest(Body):
    """A conversation, to be written as the model sees it, up to where the answer begins."""

    model: Model
    messages: Messages
    tools: Tools | None = None


class Document(Fields):
    """A document as an object."""

    text: SomeText


class RerankRequest(Body):
    """Documents, to be put in the order of what they have to do with a query.

    `method`: "logprob" asks how likely the query is after the document, by the mean
    log-probability of its tokens; "embedding" compares vectors of both, by their cosine.
    """

    model: Model
    query: SomeText
    documents: Annotated[
        list[SomeText | Document], Field(fail_fast=True, min_length=1, max_length=MAX_DOCUMENTS)
    ]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    method: Literal["embedding", "logprob"] = "logprob"

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [d if isinstance(d, str) else d.text for d in self.documents]
