"""Messages and tools as a template sees them: checked, copied, and known to be JSON-like."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from alpage.chat.marked import Marked
from alpage.core.errors import InputError

ROLES = ("system", "user", "assistant", "tool", "ipython")
_DEPTH = 32


def prepare_messages(messages: Sequence[Mapping[str, Any]], *, parts: bool) -> list[dict[str, Any]]:
    """Check messages and copy them for a template.

    `parts` False joins a list of text parts into one string (with line breaks). Arguments of tool
    calls in OpenAI's form, a string of JSON, become the object that templates expect.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InputError(
            f"messages must be a list of messages like {{'role': 'user', 'content': 'Hello'}}, "
            f"not {type(messages).__name__}"
        )
    if not messages:
        raise InputError("messages must hold at least one message, but the list is empty")
    return [_message(message, f"messages[{i}]", parts) for i, message in enumerate(messages)]


def prepare_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Check and copy tool definitions; an empty list is the same as none."""
    if not tools:
        return None
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise InputError(f"tools must be a list of JSON objects, not {type(tools).__name__}")
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise InputError(f"tools[{index}] must be a JSON object, not {type(tool).__name__}")
    copied: list[dict[str, Any]] = plain_data(tools, "tools")
    return copied


def _message(message: Any, where: str, parts: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(
            f"{where} must be a dictionary with role and content, not {type(message).__name__}"
        )
    role = message.get("role")
    if role not in ROLES:
        raise InputError(f"{where} has role {_short(role)}; known roles: {', '.join(ROLES)}")
    copied: dict[str, Any] = plain_data(message, where)
    # Chosen from the list above, so it is safe inside special tokens: '<|' + role + '|>'.
    copied["role"] = Marked.literal(str(role))
    calls = copied.get("tool_calls")
    content = copied.get("content")
    if content is None:
        if role != "assistant" or not calls:
            raise InputError(f"{where} ({role}) has no content; it must be text or text parts")
    elif isinstance(content, list):
        copied["content"] = _parts(content, where, parts)
    elif not isinstance(content, str):
        raise InputError(
            f"{where} has content of type {type(message['content']).__name__}; "
            "it must be text or a list of text parts"
        )
    if calls:
        copied["tool_calls"] = _calls(calls, where)
    else:  # clients send null or []; templates ask whether the key is there
        copied.pop("tool_calls", None)
    return copied


def _parts(content: list[Any], where: str, keep: bool) -> Any:
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise InputError(
                f"{where}.content[{index}] is of type {_short(kind)}; only text parts "
                "{'type': 'text', 'text': ...} can be used"
            )
        if part.get("type", "text") != "text":
            raise InputError(
                f"{where}.content[{index}] has type {_short(part['type'])}; only 'text' can be used"
            )
    return content if keep else "\n".join(part["text"] for part in content)


def _calls(calls: Any, where: str) -> list[Any]:
    if not isinstance(calls, list):
        raise InputError(f"{where}.tool_calls must be a list, not {type(calls).__name__}")
    for index, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InputError(
                f"{where}.tool_calls[{index}] must be a JSON object with a function that has a name"
            )
        function["arguments"] = _arguments(function.get("arguments", {}))
    return calls


def _arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def plain_data(value: Any, where: str, depth: int = 0) -> Any:
    """Copy JSON-like data; anything else is an InputError that says where it stands."""
    if depth > _DEPTH:
        raise InputError(f"{where} is nested more than {_DEPTH} deep")
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where} has the key {_short(key)}; keys must be strings")
        return {
            str.__str__(key): plain_data(item, f"{where}.{key[:40]}", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain_data(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise InputError(f"{where} holds a {type(value).__name__}; only JSON values can be used")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
