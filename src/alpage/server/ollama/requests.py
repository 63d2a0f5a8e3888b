"""The bodies of POST /api/chat and /api/generate, and what they ask of a model."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from alpage.core.types import Message
from alpage.llama import AnswerOptions
from alpage.server.backends.local import LocalModel
from alpage.server.backends.protocol import ServedModel
from alpage.server.errors import RequestError
from alpage.server.ollama.fields import Asking, Empty, answer_options
from alpage.server.openai.fields import MAX_LOGPROBS, Fields, Refused
from alpage.server.queries import ChatQuery, TextQuery

_MAX_TOOLS = 128


class OllamaFunctionCall(Fields):
    """A call that the model made earlier; `arguments` is an object."""

    name: str
    arguments: dict[str, Any]
    index: int | None = None
    description: str | None = None


class OllamaToolCall(Fields):
    """A tool call in an assistant's message."""

    function: OllamaFunctionCall
    id: str | None = None
    type: Literal["function"] | None = None


class OllamaMessage(Fields):
    """One message of the conversation. What a role needs is checked where it is rendered."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: Annotated[list[OllamaToolCall], Field(fail_fast=True)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: Empty = None
    thinking: Empty = None


def openai_form(messages: Sequence[OllamaMessage]) -> list[Message]:
    """Messages as templates and other servers read them.

    Ollama's calls need no ids, OpenAI's do: those without one are numbered, and what a tool said
    belongs to the first call, of its name if it has one, that is not answered yet. Ids have nine
    letters and digits, which is what the templates that look at them want.
    """
    shown: list[Message] = []
    waiting: list[tuple[str, str]] = []  # ids and names of calls without an answer
    number = 0
    for message in messages:
        told: dict[str, Any] = {"role": message.role, "content": message.content}
        calls: list[dict[str, Any]] = []
        for call in message.tool_calls or ():
            known = call.id or f"call{number:05}"
            number += 1
            waiting.append((known, call.function.name))
            arguments = json.dumps(call.function.arguments, ensure_ascii=False)
            function = {"name": call.function.name, "arguments": arguments}
            calls.append({"id": known, "type": "function", "function": function})
        if calls:
            told["tool_calls"] = calls
        if message.tool_name:
            told["name"] = message.tool_name
        if message.role == "tool" and (answered := _answered(message, waiting)):
            told["tool_call_id"] = answered
        shown.append(told)
    return shown


def _answered(message: OllamaMessage, waiting: list[tuple[str, str]]) -> str | None:
    """The id of the call that a tool's message answers; it waits no longer."""
    for place, (known, name) in enumerate(waiting):
        if message.tool_call_id is not None:
            fits = known == message.tool_call_id
        else:
            fits = message.tool_name in (None, "", name)
        if fits:
            del waiting[place]
            return known
    return message.tool_call_id


class OllamaFunction(Fields):
    """What a tool does; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class OllamaTool(Fields):
    """A function that the model may call."""

    type: Literal["function"] = "function"
    function: OllamaFunction

    def for_template(self) -> Mapping[str, Any]:
        """The tool in OpenAI's form."""
        function = self.function.model_dump(exclude_none=True)
        return {"type": "function", "function": function}


class Answering(Asking):
    """What both kinds of answer share. Without `stream` an answer is streamed."""

    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: Literal[False] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    shift: bool | None = None
    truncate: Literal[False] | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer is told as it comes."""
        return self.stream is not False

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        options = self.chosen
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs=true", param="top_logprobs")
        if options.penalties and (options.repeat_last_n or -1) > 0:
            raise RequestError(
                f"options.repeat_last_n is {options.repeat_last_n}: penalties look at the whole "
                "text here, which is -1; or at nothing, which is 0",
                param="options.repeat_last_n",
            )
        if self.shift and options.num_keep is not None:
            raise RequestError(
                "options.num_keep is not supported where the context shifts: leave it out",
                param="options.num_keep",
            )

    def answer_options(self, model: ServedModel) -> AnswerOptions:
        """How tokens are chosen, and the grammar of the answer."""
        options = answer_options(self.chosen, "shift" if self.shift else "stop")
        if not isinstance(model, LocalModel) and self.chosen.top_k is None:
            options.pop("top_k", None)  # few of the servers that run it know that field
        if self.logprobs:
            options["top_logprobs"] = self.top_logprobs or 0
        if self.format:
            schema = {"type": "object"} if self.format == "json" else self.format
            options["json_schema"] = schema
        return options


class OllamaChat(Answering):
    """The whole body of a chat."""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True)] | None = None
    tools: Annotated[list[OllamaTool], Field(fail_fast=True, max_length=_MAX_TOOLS)] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to answer: the model is only loaded, or given up."""
        return not self.messages

    def query(self, model: ServedModel) -> ChatQuery:
        """What is asked of the model."""
        return ChatQuery(
            messages=openai_form(self.messages or ()),
            tools=[tool.for_template() for tool in self.tools or ()] or None,
            options=self.answer_options(model),
            stop=self.chosen.stops,
        )


class OllamaGenerate(Answering):
    """The whole body of a generation: one prompt in the model's template, or `raw`."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    # Of Ollama's, not supported.
    suffix: Empty = None
    template: Empty = None
    context: Empty = None
    images: Empty = None
    width: Refused = None
    height: Refused = None
    steps: Refused = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to answer: the model is only loaded, or given up."""
        return not self.prompt

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        super().check()
        if self.raw and self.system:
            raise RequestError(
                "with raw=true the prompt is all that the model sees: write the system message "
                "into it",
                param="system",
            )

    def query(self, model: ServedModel) -> ChatQuery | TextQuery:
        """What is asked of the model. A raw prompt is encoded: call it in a thread."""
        options, stop, prompt = self.answer_options(model), self.chosen.stops, self.prompt or ""
        if self.raw:
            raw: str | list[int] = prompt
            if isinstance(model, LocalModel):
                # Whoever writes the template's text means its control tokens too.
                raw = model.ids_of(prompt, special=True, begin=True)
            return TextQuery(prompts=[raw], options=options, stop=stop)
        messages: list[Message] = [{"role": "user", "content": prompt}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        return ChatQuery(messages=messages, options=options, stop=stop)
