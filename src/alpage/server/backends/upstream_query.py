"""A query as the JSON that OpenAI-compatible servers read."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from alpage.core.types import SamplingParams
from alpage.server.errors import RequestError
from alpage.server.queries import ChatQuery, Query, TextQuery

_STANDARD = (
    "max_tokens",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
EXTENSIONS: Mapping[str, Any] = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop_token_ids": (),
    "ignore_eos": False,
    "context_policy": "stop",
    "regex": None,
    "grammar": None,
    "adapter": None,
}
"""Options that OpenAI's API has not, and the values that ask for nothing."""

_OWN = frozenset({"logit_bias", "top_logprobs", "json_schema", "timeout"})
"""Options that have a form, or a place, of their own."""
_CHARACTERS_PER_TOKEN = 4
_SHARED_FIELDS = frozenset({"options", "stop", "choices"})
_CHAT_FIELDS = _SHARED_FIELDS | {
    "messages",
    "tools",
    "tool_choice",
    "tool",
    "parallel_tool_calls",
}
_TEXT_FIELDS = _SHARED_FIELDS | {"prompts", "score_prompts", "answer"}


def chat_body(query: ChatQuery, extensions: frozenset[str]) -> dict[str, Any]:
    """The body for /chat/completions, without `model`."""
    _check_fields(query, _CHAT_FIELDS)
    body = _shared(query, extensions)
    body["messages"] = [dict(message) for message in query.messages]
    top = query.options.get("top_logprobs")
    if top is not None:
        body |= {"logprobs": True, "top_logprobs": top}
    if query.tools:
        body["tools"] = [dict(tool) for tool in query.tools]
        if query.tool is not None:
            body["tool_choice"] = {"type": "function", "function": {"name": query.tool}}
        elif query.tool_choice != "auto":
            body["tool_choice"] = query.tool_choice
        if not query.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    return body


def text_body(query: TextQuery, extensions: frozenset[str]) -> dict[str, Any]:
    """The body for /completions, without `model`."""
    _check_fields(query, _TEXT_FIELDS)
    body = _shared(query, extensions)
    if "response_format" in body:
        raise _refused("json_schema", "of a completion")
    prompts = [prompt if isinstance(prompt, str) else list(prompt) for prompt in query.prompts]
    if query.score_prompts and not all(isinstance(prompt, str) for prompt in prompts):
        raise RequestError(
            "prompts of token ids cannot be scored by a model that runs elsewhere: give texts",
            param="prompt",
        )
    body["prompt"] = prompts[0] if len(prompts) == 1 else prompts
    if not query.answer:
        body["max_tokens"] = 0
    top = query.options.get("top_logprobs")
    if top is not None or query.score_prompts:
        body["logprobs"] = top or 0
    if query.score_prompts or not query.answer:
        body["echo"] = True
    return body


def _check_fields(query: Query, known: frozenset[str]) -> None:
    """Refuse what queries can say besides: nothing is left out in silence."""
    for field in dataclasses.fields(query):
        if field.name not in known and getattr(query, field.name) != field.default:
            raise _refused(field.name, "")


def _shared(query: Query, extensions: frozenset[str]) -> dict[str, Any]:
    options: dict[str, Any] = dict(query.options)
    # The ranges are checked here, so that a mistake is told as for any other model.
    SamplingParams(**{k: v for k, v in options.items() if k in SamplingParams.__annotations__})
    for name, value in options.items():
        if value is not None and not (name in _STANDARD or name in EXTENSIONS or name in _OWN):
            raise _refused(name, "")
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    body |= {name: options[name] for name in _STANDARD if options.get(name) is not None}
    if options.get("logit_bias"):
        body["logit_bias"] = {str(token): bias for token, bias in options["logit_bias"].items()}
    for name, nothing in EXTENSIONS.items():
        value = options.get(name)
        if value is None or value == nothing or (name == "stop_token_ids" and not value):
            continue
        if name not in extensions:
            raise _refused(name, "")
        body[name] = value
    if options.get("json_schema") is not None:
        body["response_format"] = _format(options["json_schema"])
    if query.stop:
        body["stop"] = list(query.stop)
    if query.choices > 1:
        body["n"] = query.choices
    return body


def _refused(name: str, where: str) -> RequestError:
    told = f"{name} {where}".strip()
    return RequestError(
        f"{told} is not taken by this model, which runs elsewhere; leave it out",
        param="response_format" if name == "json_schema" else name,
        code="unsupported_parameter",
    )


def _format(schema: Any) -> dict[str, Any]:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"json_schema is not JSON: {error}", param="response_format"
            ) from None
    if schema == {"type": "object"}:
        return {"type": "json_object"}
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


def estimated(texts: Sequence[str | Sequence[int]]) -> int:
    """About how many tokens texts have, at least one; ids are counted."""
    counts = [
        -(-len(text) // _CHARACTERS_PER_TOKEN) if isinstance(text, str) else len(text)
        for text in texts
    ]
    return max(1, sum(counts))


def texts_of(query: ChatQuery) -> list[str]:
    """What a conversation's tokens are estimated by."""
    return [json.dumps(dict(message), ensure_ascii=False) for message in query.messages]
