"""Calls of tools that have to be made, or have to be right: grammars in a model's own notation.

What such a grammar allows is what `chat.ToolCallStream` reads back as the same calls, with
arguments that follow the `parameters` of their tool.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from alpage.chat import Notation
from alpage.chat.calls import valid_name
from alpage.core.errors import InputError, UsageError

if TYPE_CHECKING:
    from alpage.engine.grammar import Grammar

Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ToolName:
    """As `tool_choice`: the answer is one call of the tool of this name."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | ToolName
"""auto: text or calls. none: the model is told of no tool. required: at least one call."""

_NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_MOST = 128  # of tools


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool that is offered, and where `parameters` stand, for messages."""

    name: str
    parameters: Any
    strict: bool
    where: str


@dataclass(frozen=True, slots=True)
class Calls:
    """How calls are looked for in an answer, and the grammar that it follows, if any.

    `notation` None reads every known one. `single`: the first call ends the answer.
    """

    names: frozenset[str]
    single: bool
    notation: Notation | None = None
    grammar: "Grammar | None" = None


def offered(tools: Tools) -> list[Tool]:
    """The tools of a request, in OpenAI's form or bare; InputError or UsageError."""
    found = []
    for place, tool in enumerate(tools):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InputError(
                'each tool is {"type": "function", "function": {"name": ...}}, '
                f"not {function!r:.80}"
            )
        where = f"tools[{place}]{'.function' if function is not tool else ''}"
        strict = function.get("strict") or False
        if not isinstance(strict, bool):
            raise UsageError(f"{where}.strict must be true or false, not {strict!r:.60}")
        parameters = function.get("parameters")
        given = _NOTHING if parameters is None else parameters
        found.append(Tool(function["name"], given, strict, where))
    return found


def check_choice(choice: Any, parallel: Any, tools: Tools | None) -> None:
    """A UsageError for a `tool_choice` that is none, or that `tools` cannot honour."""
    if not isinstance(parallel, bool):
        raise UsageError(f"parallel_tool_calls must be True or False, not {parallel!r:.60}")
    if isinstance(choice, ToolName):
        names = [tool.name for tool in offered(tools or ())]
        if choice.name not in names:
            known = ", ".join(names[:20]) or "none"
            raise UsageError(
                f"tool_choice names {choice.name!r:.150}, which is not among the tools: {known}"
            )
    elif choice not in ("auto", "none", "required"):
        raise UsageError(
            f'tool_choice is "auto", "none", "required" or a ToolName, not {choice!r:.60}'
        )
    elif choice == "required" and not tools:
        raise UsageError('tool_choice "required" needs tools')


def calls_of(tools: Tools, choice: ToolChoice, parallel: bool, notation: Notation | None) -> Calls:
    """What `tools` and `choice` ask of an answer; UsageError for what cannot be enforced.

    `notation` is the model's own, None where its template writes calls in an unknown one.
    """
    known = offered(tools)
    names = frozenset(tool.name for tool in known)
    if isinstance(choice, ToolName):
        known = [tool for tool in known if tool.name == choice.name]
    elif choice == "auto" and not any(tool.strict for tool in known):
        return Calls(names, not parallel)
    option = "tools" if choice == "auto" else "tool_choice"
    if notation is None:
        raise UsageError(f"{option} cannot be enforced: the model's notation of calls is unknown")
    _check_names(known)
    single = not parallel or isinstance(choice, ToolName)
    text = _Writer(known, notation, strict_only=choice == "auto").text(
        free=choice == "auto", single=single
    )
    from alpage.engine.grammar import Grammar  # loads llguidance, which few answers need

    return Calls(names, not parallel or single, notation, Grammar.calls(text))


def _check_names(tools: Sequence[Tool]) -> None:
    if len(tools) > _MOST:
        raise UsageError(f"tools has {len(tools)} members; at most {_MOST} can be enforced")
    seen = set()
    for tool in tools:
        if not valid_name(tool.name):
            raise UsageError(f"{tool.where}.name {tool.name!r:.150} is no name of a function")
        if tool.name in seen:
            raise UsageError(f"{tool.where}.name {tool.name!r} is there twice")
        seen.add(tool.name)


class _Writer:
    """Writes the grammar of calls in one notation."""

    def __init__(self, tools: Sequence[Tool], notation: Notation, *, strict_only: bool) -> None:
        self._notation = notation
        self._schemas = {
            tool.name: _arguments(tool, f"t{place}d", checked=tool.strict or not strict_only)
            for place, tool in enumerate(tools)
        }

    def text(self, *, free: bool, single: bool) -> str:
        """`free`: text may stand around the calls, or instead of them. `single`: one at most."""
        begin, call = self._call()
        if self._notation is Notation.BARE:
            calls = "call" if single else 'call ("; " call)*'
            other = f" | TEXT\nTEXT: /{_NO_OBJECT}/" if free else ""
            return f"start: {calls}{other}\ncall: {call}\n"
        if not free:
            calls = "call" if single else 'call ("\\n" call)*'
            return f"start: {calls}\ncall: {_quoted(begin)} {call}\n"
        start = "rest | called" if single else "called* rest"
        return (
            f"start: {start}\ncalled: before {call}\nrest: TEXT\n"
            f"before[lazy]: /(?s:.*){begin}/\n"
            f"TEXT: /(?s:.*)/ & ~/(?s:.*){begin}(?s:.*)/\n"
        )

    def _call(self) -> tuple[str, str]:
        """What begins every call, and the grammar of what follows it."""
        if self._notation is Notation.FUNCTION:
            bodies = " | ".join(
                f'{_quoted(f"{name}>")} {_json(schema)} "</function>"'
                for name, schema in self._schemas.items()
            )
            return Notation.FUNCTION.value, f"({bodies})"
        key = "parameters" if self._notation is Notation.BARE else "arguments"
        whole = _json(_either([_object(n, key, s) for n, s in self._schemas.items()]))
        if self._notation is Notation.BARE:
            return "", whole
        return Notation.TAGGED.value, f'"\\n" {whole} "\\n</tool_call>"'


_NO_OBJECT = r"(?s:[\s\x1c-\x1f]*[^\s\x1c-\x1f{].*)?"  # a text that does not begin with an object


def _arguments(tool: Tool, names: str, *, checked: bool) -> dict[str, Any]:
    """The schema of a tool's arguments, an object, as the library has to get it."""
    from alpage.engine.schema_check import Enforceable, SchemaError

    if not checked:
        return {"type": "object"}
    where = f"{tool.where}.parameters"
    given = tool.parameters
    if not isinstance(given, Mapping):
        raise UsageError(f"{where} must be a JSON Schema, not {given!r:.60}")
    try:
        json.dumps(given, allow_nan=False)
        found = Enforceable(given, names)
    except SchemaError as error:
        raise UsageError(f"{where} cannot be enforced: {error}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}") from None
    kinds = found.schema.get("type", "object")
    if kinds != "object" and "object" not in kinds:
        raise UsageError(f'{where} has the "type" {kinds!r:.60}, but arguments are an object')
    return found.schema | {"type": "object", "$defs": found.definitions}


def _object(name: str, key: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, key: arguments},
        "required": ["name", key],
        "additionalProperties": False,
    }


def _either(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """One of `calls`, with the definitions of all of them at the top, where references look."""
    definitions: dict[str, Any] = {}
    for call in calls:
        for part in call["properties"].values():
            definitions |= part.pop("$defs", {})
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return schema | {"$defs": definitions}


def _json(schema: dict[str, Any]) -> str:
    from alpage.engine.grammar import LAYOUT

    return f"%json {json.dumps(schema | {'x-guidance': LAYOUT})}"


def _quoted(text: str) -> str:
    return json.dumps(text)
