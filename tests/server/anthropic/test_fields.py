"""Every field that the anthropic client knows is honoured, harmless, or refused by name."""

import re
from collections.abc import Mapping
from typing import Any, get_args

import anthropic
import pytest
from anthropic import types
from anthropic.types import beta, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_params
from anthropic.types.beta import message_create_params as beta_create_params
from tests.server.anthropic.asking import (
    BODY,
    HELLO,
    RESULT,
    TEXT,
    USE,
    WEATHER,
    post,
    refused,
    with_blocks,
)

CACHE = {"type": "ephemeral"}
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
HEADERS = {"betas", "user_profile_id", "workspace_id"}
"""Parameters that the client sends beside the body: see test_models."""

Values = Mapping[str, tuple[Any, ...]]

TAKEN: Values = {
    "max_tokens": (1, 2),
    "messages": (HELLO,),
    "model": ("smollm2",),
    "cache_control": (None, CACHE, CACHE | {"ttl": "5m"}),
    "metadata": (None, {}, {"user_id": "someone"}, {"user_id": None}),
    "output_config": (None, {}, {"effort": None}, {"format": SCHEMA}),
    "output_format": (None, SCHEMA),
    "service_tier": (None, "auto", "standard_only"),
    "speed": (None, "standard"),
    "stop_sequences": (None, [], ["x"]),
    "stream": (None, False),
    "system": (None, "Be kind.", [{"type": "text", "text": "Be kind."}]),
    "thinking": (None, {"type": "disabled"}),
    "tool_choice": (None, {"type": "auto"}, {"type": "none"}),
    "tools": (None, [], [WEATHER]),
    "temperature": (None, 0.5, 1),
    "top_p": (None, 0.5, 1),
    "top_k": (None, 0, 5),
}
REFUSED: Values = {
    "max_tokens": (None, 0, -1, 1.5, "1", True),
    "messages": (None, [], {}, "Hi", [{"role": "tool", "content": "x"}], [{"role": "user"}]),
    "model": (None, 1),
    "cache_control": ({"type": "forever"}, CACHE | {"ttl": "2h"}),
    "metadata": ({"name": "Ada"}, {"user_id": 1}),
    "output_config": ({"effort": "high"}, {"task_budget": {"type": "tokens", "total": 9}}),
    "output_format": ({"type": "json_object"},),
    "service_tier": ("priority",),
    "speed": ("fast",),
    "stop_sequences": ("x", [1], [""], [str(n) for n in range(99)]),
    "stream": ("yes", 1),
    "system": (1, [{"type": "image"}], {"type": "text", "text": "x"}),
    "thinking": (
        {"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}, {"type": "between_tools"},
    ),
    "tool_choice": ("auto", {"type": "any"}, {"type": "tool", "name": "get_weather"}, {}),
    "tools": ([WEATHER] * 2, [{}], [{"type": "bash_20250124", "name": "bash"}]),
    "temperature": (-1, "hot", 101),
    "top_p": (2, "x"),
    "top_k": (-1, 1.5),
    "billing_policy": ({},),
    "compaction": ({},),
    "container": ("container_1", {}),
    "context_management": ({"edits": []},),
    "diagnostics": ({"previous_message_id": None},),
    "fallback_credit_token": ("x",),
    "fallbacks": ([{"model": "other"}],),
    "inference_geo": ("us",),
    "mcp_servers": ([], [{"type": "url", "url": "http://x", "name": "x"}]),
    "thread": ({},),
    "unheard_of": (1, None),
}  # fmt: skip


def test_the_client_knows_no_field_that_these_tests_do_not() -> None:
    for module in (message_create_params, beta_create_params):
        known = set(module.MessageCreateParamsBase.__annotations__)
        assert known - HEADERS <= set(TAKEN) | set(REFUSED)
    for counted in (message_count_tokens_params, beta_count_params):
        known = set(counted.MessageCountTokensParams.__annotations__)
        assert known - HEADERS <= set(TAKEN) | set(REFUSED)


@pytest.mark.client("anthropic", "fields: every one of the client is honoured or refused by name")
@pytest.mark.parametrize("name", TAKEN)
def test_fields_are_taken(claude: anthropic.Anthropic, name: str) -> None:
    for value in TAKEN[name]:
        tools = {} if name == "tools" else {"tools": None}
        assert post(claude, BODY | tools | {name: value})["type"] == "message"


@pytest.mark.client(
    "anthropic", "fields: containers, MCP servers, thinking, context management", refused=True
)
@pytest.mark.parametrize("name", REFUSED)
def test_fields_are_refused(claude: anthropic.Anthropic, name: str) -> None:
    names = {"stop_sequences": "", "temperature": "", "output_format": ""}
    for value in REFUSED[name]:
        message = refused(claude, BODY | {name: value}, names.get(name, name))
        assert "json_schema" in message or "stop" in message or name in message, message


def test_what_is_missing_is_named(claude: anthropic.Anthropic) -> None:
    for name in ("model", "messages", "max_tokens"):
        body = {key: value for key, value in BODY.items() if key != name}
        assert "required" in refused(claude, body, name)


def kinds(union: Any) -> set[str]:
    """The names of all block types, or tools, of one of the client's unions."""
    found: set[str] = set()
    for member in get_args(union):
        if get_args(member):
            found |= kinds(member)
        elif hasattr(member, "__annotations__"):
            text = str(member.__annotations__.get("type", ""))
            found |= set(re.findall(r"""['"]([a-z0-9_]+)['"]""", text))
    return found


def fields_of(param: Any) -> set[str]:
    """The fields of one of the client's parameter types."""
    return set(param.__annotations__)


def test_blocks_of_other_kinds_are_refused(claude: anthropic.Anthropic) -> None:
    known = {"text", "tool_use", "tool_result"}
    others = (kinds(types.ContentBlockParam) | kinds(beta.BetaContentBlockParam)) - known
    assert {"image", "document", "thinking", "server_tool_use"} <= others
    for kind in sorted(others):
        for role in ("user", "assistant"):
            messages = [*HELLO, {"role": role, "content": [{"type": kind}]}]
            message = refused(claude, BODY | {"messages": messages}, f'{{"type": "{kind[:40]}')
            assert "messages[1].content[0]" in message
        told = with_blocks(USE, RESULT | {"content": [{"type": kind}]}, TEXT)
        refused(claude, told, "content[0].content[0].type")


def test_tools_of_other_kinds_are_refused(claude: anthropic.Anthropic) -> None:
    others = (kinds(types.ToolUnionParam) | kinds(beta.BetaToolUnionParam)) - {"custom"}
    others = {kind for kind in others if re.search(r"\d{8}|toolset", kind)}
    assert {"bash_20250124", "web_search_20250305"} <= others
    for kind in sorted(others):
        tool = {"type": kind, "name": "some"}
        message = refused(claude, BODY | {"tools": [tool]}, "tools[0].type")
        assert kind in message


BLOCK_FIELDS: tuple[tuple[Any, str, Values, Values], ...] = (
    (
        types.TextBlockParam, "text",
        {"text": ("x",), "type": ("text",), "cache_control": (None, CACHE),
         "citations": (None, [])},
        {"text": (1, None), "cache_control": (1,), "citations": ([{"type": "char_location"}],)},
    ),
    (
        types.ToolUseBlockParam, "use",
        {"id": ("a",), "input": ({}, {"x": [1]}), "name": ("f",), "type": ("tool_use",),
         "cache_control": (CACHE,), "caller": (None, {"type": "direct"}), "toolset_name": (None,)},
        {"id": ("", 1), "input": ("{}", None), "name": ("",), "toolset_name": ("browser",),
         "caller": ({"type": "code_execution_20250825", "tool_id": "x"},)},
    ),
    (
        types.ToolResultBlockParam, "result",
        {"tool_use_id": ("a",), "type": ("tool_result",), "cache_control": (CACHE,),
         "content": (None, "x", [], [TEXT]), "is_error": (None, True, False),
         "toolset_name": (None,)},
        {"tool_use_id": (1, None), "content": (1, [1]), "is_error": ("no",),
         "toolset_name": ("browser",)},
    ),
)  # fmt: skip


@pytest.mark.parametrize("place", range(len(BLOCK_FIELDS)))
def test_fields_of_blocks(claude: anthropic.Anthropic, place: int) -> None:
    param, kind, taken, wrong = BLOCK_FIELDS[place]
    assert fields_of(param) == set(taken)
    blocks: dict[str, Any] = {"use": USE, "result": RESULT, "text": TEXT}
    for name, values in taken.items():
        for value in values:
            body = with_blocks(**blocks | {kind: {**blocks[kind], name: value}})
            assert post(claude, body)["type"] == "message"
    for name, values in [*wrong.items(), ("unheard_of", (1,))]:
        for value in values:
            body = with_blocks(**blocks | {kind: {**blocks[kind], name: value}})
            refused(claude, body, f".{name}")


NESTED: tuple[tuple[tuple[Any, ...], str, dict[str, Any], Values, Values], ...] = (
    (
        (types.ToolParam, beta.BetaToolParam), "tools", WEATHER,
        {"input_schema": ({"type": "object"},), "name": ("f", "get-it_2"), "description": ("x",),
         "type": (None, "custom"), "cache_control": (None, CACHE), "strict": (None, False, True),
         "allowed_callers": (None, ["direct"]), "defer_loading": (None, False),
         "eager_input_streaming": (None, True, False), "input_examples": (None,)},
        {"input_schema": (None, "{}"), "name": ("", "a b", "x" * 200, "1st"), "description": (1,),
         "allowed_callers": (["code_execution_20250825"],), "defer_loading": (True,),
         "input_examples": ([{"city": "Rome"}],), "strict": ("yes",)},
    ),
    (
        (types.OutputConfigParam, beta.BetaOutputConfigParam), "output_config", {},
        {"effort": (None,), "format": (None, SCHEMA), "task_budget": (None,)},
        {"effort": ("low",), "task_budget": ({"type": "tokens", "total": 9},), "format": (1,)},
    ),
    (
        (types.JSONOutputFormatParam,), "output_format", SCHEMA,
        {"type": ("json_schema",), "schema": ({"type": "string"},)},
        {"type": ("regex",), "schema": ("{}",)},
    ),
    (
        (types.MetadataParam,), "metadata", {}, {"user_id": (None, "x")}, {"user_id": (1,)},
    ),
    (
        (types.CacheControlEphemeralParam,), "cache_control", CACHE,
        {"type": ("ephemeral",), "ttl": (None, "5m", "1h")}, {"type": ("x",), "ttl": ("9h",)},
    ),
    (
        (types.ToolChoiceAutoParam, types.ToolChoiceNoneParam), "tool_choice", {"type": "auto"},
        {"type": ("auto", "none"), "disable_parallel_tool_use": (None, False)},
        {"type": ("maybe", None), "disable_parallel_tool_use": ("yes",)},
    ),
)  # fmt: skip


@pytest.mark.parametrize("place", range(len(NESTED)))
def test_fields_of_nested_values(claude: anthropic.Anthropic, place: int) -> None:
    params, field, whole, taken, wrong = NESTED[place]
    assert set().union(*map(fields_of, params)) == set(taken)

    def body(name: str, value: Any) -> dict[str, Any]:
        changed = {**whole, name: value}
        return BODY | {field: [changed] if field == "tools" else changed}

    for name, values in taken.items():
        for value in values:
            assert post(claude, body(name, value))["type"] == "message"
    for name, values in [*wrong.items(), ("unheard_of", (1,))]:
        for value in values:
            refused(claude, body(name, value), f".{name}")
