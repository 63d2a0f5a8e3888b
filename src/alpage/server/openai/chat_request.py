"""The body of POST /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import Field

from alpage.server.errors import RequestError
from alpage.server.openai.fields import (
    MAX_ITEMS,
    MAX_LOGPROBS,
    MAX_PARTS,
    Fields,
    JsonSchema,
    Name,
    Refused,
    SharedFields,
)
from alpage.server.openai.tools import (
    MAX_TOOLS,
    AllowedChoice,
    FunctionChoice,
    Offer,
    Tool,
    Word,
    offer,
)
from alpage.server.queries import ChatQuery


class TextPart(Fields):
    """The one kind of content part that a text model reads."""

    type: Literal["text"]
    text: str


class CalledFunction(Fields):
    """A call that the model made earlier; `arguments` is JSON text."""

    name: str
    arguments: str


class EarlierCall(Fields):
    """A tool call in an assistant's message."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # left over where clients put streamed calls together


Parts = Annotated[list[TextPart], Field(fail_fast=True, max_length=MAX_PARTS)]
Calls = Annotated[list[EarlierCall], Field(fail_fast=True, max_length=MAX_PARTS)]


class ChatMessage(Fields):
    """One message of the conversation. What a role needs is checked where it is rendered."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    name: str | None = None
    tool_calls: Calls | None = None
    tool_call_id: str | None = None
    # Clients send an earlier answer back as it was.
    refusal: Refused = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: Refused = None
    function_call: Refused = None

    def for_template(self) -> dict[str, Any]:
        """The message as templates read it: what was given, and `developer` as `system`."""
        shown = self.model_dump(exclude_unset=True)
        for name in ("refusal", "annotations", "audio", "function_call"):
            shown.pop(name, None)
        if self.role == "developer":
            shown["role"] = "system"
        return {key: value for key, value in shown.items() if value is not None}


class SchemaFormat(Fields):
    """A JSON Schema that the answer follows, whether `strict` asks for that or not."""

    name: Name
    description: str | None = None
    schema_: Annotated[JsonSchema, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Fields):
    """What the answer looks like: any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @property
    def enforced(self) -> dict[str, Any] | None:
        """The JSON Schema of the answer."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class ChatRequest(SharedFields):
    """The whole body."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, max_length=MAX_ITEMS)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Word | FunctionChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    # Values that change nothing here.
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    prompt_cache_key: str | None = None
    # Fields of OpenAI's that are not supported.
    audio: Refused = None
    function_call: Refused = None
    functions: Refused = None
    moderation: Refused = None
    prediction: Refused = None
    prompt_cache_options: Refused = None
    prompt_cache_retention: Refused = None
    reasoning_effort: Refused = None
    verbosity: Refused = None
    web_search_options: Refused = None

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs=true", param="top_logprobs")
        wanted = self.response_format
        if wanted and (wanted.type == "json_schema") != (wanted.json_schema is not None):
            raise RequestError(
                'response_format has a json_schema with the type "json_schema", and with no other',
                param="response_format",
            )
        self.check_form(*(["response_format"] if wanted and wanted.enforced is not None else []))
        one, other = self.max_tokens, self.max_completion_tokens
        if one is not None and other is not None and one != other:
            raise RequestError(
                f"max_tokens is {one} and max_completion_tokens is {other}; give one of them",
                param="max_tokens",
            )
        self.offer()

    def offer(self) -> Offer:
        """The tools, and which of them has to be called."""
        tools = [tool.model_dump(exclude_unset=True) for tool in self.tools or ()]
        choice = self.tool_choice
        if isinstance(choice, FunctionChoice):
            return offer(tools, None, name=choice.function.name)
        if isinstance(choice, AllowedChoice):
            allowed = choice.allowed_tools
            names = [tool.function.name for tool in allowed.tools]
            return offer(tools, allowed.mode, allowed=names)
        return offer(tools, choice)

    def query(self) -> ChatQuery:
        """What is asked of the model."""
        options = self.options()
        options["max_tokens"] = self.max_completion_tokens or self.max_tokens
        options["top_logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        if self.response_format is not None:
            options["json_schema"] = self.response_format.enforced
        offered = self.offer()
        return ChatQuery(
            messages=[message.for_template() for message in self.messages],
            tools=offered.tools,
            tool_choice=offered.choice,
            tool=offered.tool,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            options=options,
            stop=self.stops,
            choices=self.choices,
        )
