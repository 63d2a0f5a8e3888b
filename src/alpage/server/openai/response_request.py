"""The body of POST /v1/responses."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from alpage.server.errors import RequestError
from alpage.server.openai.fields import (
    MAX_LOGPROBS,
    AnswerFields,
    Fields,
    JsonSchema,
    Name,
    Refused,
)
from alpage.server.openai.items import Id, Items, JsonItem, messages_of
from alpage.server.openai.tools import MAX_TOOLS, Offer, Word, offer
from alpage.server.queries import ChatQuery

LOGPROBS = "message.output_text.logprobs"


class FunctionTool(Fields):
    """A function that the model may call; `parameters` is a JSON schema, followed if `strict`."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None
    # Of OpenAI's own ways to find and to run tools.
    allowed_callers: Refused = None
    defer_loading: Literal[False] | None = None
    output_schema: Refused = None

    def for_chat(self) -> dict[str, Any]:
        """The tool in the form of chats."""
        given = self.model_dump(include={"name", "description", "parameters", "strict"})
        function = {name: value for name, value in given.items() if value is not None}
        return {"type": "function", "function": function}


class FunctionChoice(Fields):
    """The one function that has to be called."""

    type: Literal["function"]
    name: Name


class AllowedChoice(Fields):
    """Some of the tools, of which the model may (`auto`) or has to (`required`) call one."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Field(fail_fast=True, max_length=MAX_TOOLS)]


class TextFormat(Fields):
    """What the answer looks like: any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    schema_: Annotated[JsonSchema | None, Field(alias="schema")] = None
    strict: bool | None = None

    @property
    def enforced(self) -> dict[str, Any] | None:
        """The JSON Schema of the answer."""
        return {"type": "object"} if self.type == "json_object" else self.schema_

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        wanted = self.type == "json_schema"
        if (self.name is not None, self.schema_ is not None) != (wanted, wanted):
            raise RequestError(
                'text.format has a name and a schema with the type "json_schema", and with no '
                "other",
                param="text.format",
            )


class TextConfig(Fields):
    """What is said about the text of the answer."""

    format: TextFormat | None = None
    verbosity: Refused = None


class StreamOptions(Fields):
    """Nothing that changes a stream here."""

    include_obfuscation: Literal[False] | None = None


class ResponseRequest(AnswerFields):
    """The whole body."""

    input: str | Items
    instructions: str | None = None
    previous_response_id: Id | None = None
    store: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Word | FunctionChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    include: (
        Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=8)] | None
    ) = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    # Values that change nothing here.
    background: Literal[False] | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    # Fields of OpenAI's that are not supported.
    access_programs: Refused = None
    background_options: Refused = None
    context_management: Refused = None
    conversation: Refused = None
    image: Refused = None
    max_tool_calls: Refused = None
    moderation: Refused = None
    prompt: Refused = None
    prompt_cache_options: Refused = None
    prompt_cache_retention: Refused = None
    reasoning: Refused = None

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        if self.text_format is not None:
            self.text_format.check()
        self.check_form(*([] if self.enforced is None else ["text.format"]))
        if self.top_logprobs and not self.wants_logprobs:
            raise RequestError(f'top_logprobs needs "{LOGPROBS}" in include', param="top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options works with stream=true only", param="stream_options")
        self.offer()

    @property
    def text_format(self) -> TextFormat | None:
        """What the answer looks like, where that is said."""
        return None if self.text is None else self.text.format

    @property
    def enforced(self) -> dict[str, Any] | None:
        """The JSON Schema of the answer."""
        return None if self.text_format is None else self.text_format.enforced

    @property
    def wants_logprobs(self) -> bool:
        """Whether tokens come with their log-probabilities."""
        return LOGPROBS in (self.include or ())

    def offer(self) -> Offer:
        """The tools, and which of them has to be called."""
        tools = [tool.for_chat() for tool in self.tools or ()]
        choice = self.tool_choice
        if isinstance(choice, FunctionChoice):
            return offer(tools, None, name=choice.name)
        if isinstance(choice, AllowedChoice):
            return offer(tools, choice.mode, allowed=[tool.name for tool in choice.tools])
        return offer(tools, choice)

    def query(self, items: Sequence[JsonItem]) -> ChatQuery:
        """What is asked of the model about all items of the conversation."""
        options = self.options()
        options["max_tokens"] = self.max_output_tokens
        options["top_logprobs"] = (self.top_logprobs or 0) if self.wants_logprobs else None
        options["json_schema"] = self.enforced
        begin = [] if self.instructions is None else [self.instructions]
        offered = self.offer()
        return ChatQuery(
            messages=[*({"role": "system", "content": t} for t in begin), *messages_of(items)],
            tools=offered.tools,
            tool_choice=offered.choice,
            tool=offered.tool,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            options=options,
            stop=self.stops,
        )

    def shown(self) -> dict[str, Any]:
        """What a response says about how it was asked for."""
        tools = [tool.model_dump(exclude_unset=True) for tool in self.tools or ()]
        # Clients expect both fields of every function.
        tools = [{"parameters": None, "strict": None, **tool} for tool in tools]
        choice = self.tool_choice or "auto"
        form = self.text_format or TextFormat(type="text")
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "prompt_cache_key": self.prompt_cache_key,
            "safety_identifier": self.safety_identifier,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {"format": form.model_dump(exclude_unset=True, by_alias=True)},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": tools,
            "top_logprobs": self.top_logprobs or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "user": self.user,
        }
