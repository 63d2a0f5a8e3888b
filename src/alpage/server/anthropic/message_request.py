"""The bodies of POST /v1/messages and POST /v1/messages/count_tokens."""

from typing import Annotated, Any, Literal, cast

from pydantic import Field

from alpage.llama import AnswerOptions
from alpage.server.anthropic.blocks import (
    MAX_MESSAGES,
    CacheControl,
    InputMessage,
    TextBlocks,
    text_of,
)
from alpage.server.anthropic.conversation import conversation
from alpage.server.errors import RequestError
from alpage.server.openai.fields import Body, Fields, Refused, Strings
from alpage.server.queries import ChatQuery, ToolChoice

_SEEDS = 1 << 64
_MAX_TOOLS = 128


class CustomTool(Fields):
    """A function that the client offers; those that Anthropic runs itself are not here."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_-]{0,127}$")]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    # Values that change nothing here.
    cache_control: CacheControl | None = None
    allowed_callers: Annotated[list[Literal["direct"]], Field(fail_fast=True)] | None = None
    defer_loading: Literal[False] | None = None
    eager_input_streaming: bool | None = None
    # Fields of Anthropic's that are not supported.
    input_examples: Refused = None

    def for_query(self) -> dict[str, Any]:
        """The tool in OpenAI's form."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = self.input_schema
        if self.strict:
            function["strict"] = True
        return {"type": "function", "function": function}


class WantedTool(Fields):
    """Whether the model calls tools: as it likes, at least one, a certain one, or none."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class SchemaOutput(Fields):
    """A JSON Schema that the answer follows."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Fields):
    """What the answer looks like."""

    format: SchemaOutput | None = None
    effort: Refused = None
    task_budget: Refused = None


class Metadata(Fields):
    """Who asks; it changes no answer."""

    user_id: str | None = None


class NoThinking(Fields):
    """The only kind of thinking that every model can do."""

    type: Literal["disabled"]


class PromptFields(Body):
    """What decides the prompt; the whole body where tokens are counted."""

    model: str
    messages: Annotated[list[InputMessage], Field(fail_fast=True, max_length=MAX_MESSAGES)]
    system: str | TextBlocks | None = None
    tools: Annotated[list[CustomTool], Field(fail_fast=True, max_length=_MAX_TOOLS)] | None = None
    tool_choice: WantedTool | None = None
    output_config: OutputConfig | None = None
    output_format: SchemaOutput | None = None  # the older name of output_config.format
    # Values that change nothing here.
    cache_control: CacheControl | None = None
    thinking: NoThinking | None = None
    speed: Literal["standard"] | None = None
    # Fields of Anthropic's that are not supported.
    billing_policy: Refused = None
    compaction: Refused = None
    context_management: Refused = None
    mcp_servers: Refused = None
    thread: Refused = None

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        names = [tool.name for tool in self.tools or ()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RequestError(f"tools: there are two with the name {twice!r}", param="tools")
        self._check_choice(names)
        config = self.output_config
        if self.output_format is not None and config is not None and config.format is not None:
            raise RequestError(
                "output_format is the older name of output_config.format; give one of them",
                param="output_format",
            )

    def _check_choice(self, names: list[str]) -> None:
        choice = self.tool_choice
        if choice is None:
            return
        if (choice.type == "tool") != (choice.name is not None):
            raise RequestError(
                'tool_choice has a name with the type "tool", and with no other',
                param="tool_choice",
            )
        if choice.type == "none" and choice.disable_parallel_tool_use is not None:
            raise RequestError(
                'tool_choice.disable_parallel_tool_use says nothing with the type "none"',
                param="tool_choice",
            )
        if choice.type in ("any", "tool") and not names:
            raise RequestError(
                f'tool_choice of type "{choice.type}" needs tools', param="tool_choice"
            )
        if choice.name is not None and choice.name not in names:
            raise RequestError(
                f"tool_choice.name is {choice.name!r:.80}, which is none of the tools: "
                f"{', '.join(names)}",
                param="tool_choice",
            )

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON Schema of the answer."""
        given = self.output_config.format if self.output_config is not None else None
        given = given or self.output_format
        return None if given is None else given.schema_

    def query(self) -> ChatQuery:
        """What is asked of the model."""
        system = None if self.system is None else text_of(self.system)
        told = conversation(system, self.messages)
        options = self.options()
        if self.schema_wanted is not None:
            if told.begun:
                raise RequestError(
                    "the last message begins the answer, which a schema of the whole answer "
                    "leaves no room for: give one of them",
                    param="messages",
                )
            options["json_schema"] = self.schema_wanted
        choice = self.tool_choice or WantedTool(type="auto")
        return ChatQuery(
            messages=told.messages,
            begun=told.begun,
            tools=[tool.for_query() for tool in self.tools] if self.tools else None,
            tool_choice=_CHOICES[choice.type],
            tool=choice.name,
            parallel_tool_calls=not choice.disable_parallel_tool_use,
            options=options,
            stop=self.stops,
        )

    def options(self) -> AnswerOptions:
        """How the answer is sampled."""
        return {}

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return []


_CHOICES: dict[str, ToolChoice] = {
    "auto": "auto",
    "any": "required",
    "tool": "required",
    "none": "none",
}


class CountRequest(PromptFields):
    """The body of a question for the number of tokens."""


class MessageRequest(PromptFields):
    """The whole body. Ranges of sampling fields are checked by the engine."""

    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)]
    stream: bool | None = None
    stop_sequences: Strings | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    # Extensions of Alpage.
    seed: Annotated[int, Field(ge=-(_SEEDS >> 1), lt=_SEEDS)] | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    # Values that change nothing here.
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    # Fields of Anthropic's that are not supported.
    container: Refused = None
    diagnostics: Refused = None
    fallback_credit_token: Refused = None
    fallbacks: Refused = None
    inference_geo: Refused = None

    def options(self) -> AnswerOptions:
        """The sampling fields over Anthropic's defaults, temperature 1 and top_p 1."""
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }
        options = {"temperature": 1.0, "top_p": 1.0, "max_tokens": self.max_tokens}
        options |= {name: value for name, value in given.items() if value is not None}
        return cast(AnswerOptions, options)

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return self.stop_sequences or []
