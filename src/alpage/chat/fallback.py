"""What to do when a model brings no template, or one that knows nothing of tools."""

import json
from collections.abc import Collection
from typing import Any

from alpage.chat.marked import Marked

_HEADER = "<|start_header_id|>"

LLAMA3 = """\
{#- The prompt format of Llama 3 and 3.1, as published with the models. -#}
{%- set begin = '<|start_header_id|>' -%}
{%- set end = '<|end_header_id|>\\n\\n' -%}
{%- set builtin = builtin_tools if builtin_tools is defined and builtin_tools else [] -%}
{%- set ns = namespace(system='', rest=messages, tools_told=false) -%}
{%- if messages[0].role == 'system' -%}
  {%- set ns.system = messages[0].content | trim -%}
  {%- set ns.rest = messages[1:] -%}
{%- endif -%}
{{- bos_token -}}
{%- if ns.system or tools or builtin -%}
  {{- begin ~ 'system' ~ end -}}
  {%- if tools or builtin -%}
    {{- 'Environment: ipython\\n' -}}
    {%- set listed = builtin | reject('equalto', 'code_interpreter') | list -%}
    {%- if listed -%}
      {{- 'Tools: ' ~ listed | join(', ') ~ '\\n' -}}
    {%- endif -%}
    {{- 'Cutting Knowledge Date: December 2023\\n' -}}
    {{- 'Today Date: ' ~ (date_string if date_string is defined else '26 Jul 2024') ~ '\\n\\n' -}}
  {%- endif -%}
  {{- ns.system ~ '<|eot_id|>' -}}
{%- endif -%}
{%- for message in ns.rest -%}
  {%- if message.role in ('tool', 'ipython') -%}
    {{- begin ~ 'ipython' ~ end ~ message.content ~ '<|eot_id|>' -}}
  {%- elif message.tool_calls -%}
    {{- begin ~ 'assistant' ~ end ~ (message.content or '') | trim -}}
    {%- set last = namespace(stop='<|eot_id|>') -%}
    {%- for call in message.tool_calls -%}
      {%- set f = call.function if call.function else call -%}
      {%- if f.name in builtin and f.name == 'code_interpreter' and f.arguments.code is string -%}
        {{- '<|python_tag|>' ~ f.arguments.code -}}
        {%- set last.stop = '<|eom_id|>' -%}
      {%- elif f.name in builtin and f.arguments is mapping -%}
        {{- '<|python_tag|>' ~ f.name ~ '.call(' -}}
        {%- for key, value in f.arguments.items() -%}
          {{- key ~ '=' ~ value | tojson ~ ('' if loop.last else ', ') -}}
        {%- endfor -%}
        {{- ')' -}}
        {%- set last.stop = '<|eom_id|>' -%}
      {%- else -%}
        {{- '{"name": ' ~ f.name | tojson ~ ', "parameters": ' ~ f.arguments | tojson ~ '}' -}}
      {%- endif -%}
      {{- '' if loop.last else '; ' -}}
    {%- endfor -%}
    {{- last.stop -}}
  {%- else -%}
    {{- begin ~ message.role ~ end -}}
    {%- if message.role == 'user' and tools and not ns.tools_told -%}
      {%- set ns.tools_told = true -%}
      {{- 'Given the following functions, please respond with a JSON for a function call ' -}}
      {{- 'with its proper arguments that best answers the given prompt.\\n\\n' -}}
      {{- 'Respond in the format {"name": function name, "parameters": ' -}}
      {{- 'dictionary of argument name and its value}. Do not use variables.\\n\\n' -}}
      {%- for tool in tools -%}
        {{- tool | tojson(indent=4) ~ '\\n\\n' -}}
      {%- endfor -%}
    {%- endif -%}
    {{- message.content | trim ~ '<|eot_id|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- begin ~ 'assistant' ~ end -}}
{%- endif -%}
"""

CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""

PLAIN = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{ message.content ~ '\\n\\n' }}
{%- elif message.role == 'assistant' -%}
{{ 'Assistant: ' ~ message.content ~ '\\n' }}
{%- elif message.role == 'user' -%}
{{ 'User: ' ~ message.content ~ '\\n' }}
{%- else -%}
{{ 'Tool: ' ~ message.content ~ '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ 'Assistant:' }}
{%- endif -%}
"""


def fallback_template(special_tokens: Collection[str]) -> str:
    """Choose the template for a model without one, by the special tokens of its vocabulary."""
    if _HEADER in special_tokens:
        return LLAMA3
    return CHATML if "<|im_start|>" in special_tokens else PLAIN


def write_calls(conversation: list[dict[str, Any]]) -> None:
    """Put the tool calls of earlier answers into their content, for templates that ignore them."""
    for message in conversation:
        calls = message.get("tool_calls")
        if not calls:
            continue
        texts = [message.get("content") or ""]
        for call in calls:
            function = call.get("function", call)
            data = {"name": function["name"], "arguments": function.get("arguments", {})}
            texts.append(f"<tool_call>\n{json.dumps(data, ensure_ascii=False)}\n</tool_call>")
        if isinstance(texts[0], list):
            texts[0] = "\n".join(part["text"] for part in texts[0])
        message["content"] = "\n".join(text for text in texts if text)


def describe_tools(conversation: list[dict[str, Any]], tools: list[dict[str, Any]]) -> None:
    """Tell of `tools` in the system message, for templates that ignore `tools`."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = (
        "You may call these functions, described in JSON:\n"
        f"<tools>\n{lines}\n</tools>\n"
        "To call one, answer with its name and arguments in this form and nothing else:\n"
        '<tool_call>\n{"name": "function name", "arguments": {"argument": "value"}}\n</tool_call>'
    )
    first = conversation[0]
    if first["role"] != "system":
        conversation.insert(0, {"role": Marked.literal("system"), "content": text})
    elif isinstance(first["content"], list):
        first["content"].append({"type": "text", "text": "\n\n" + text})
    else:
        first["content"] = f"{first['content']}\n\n{text}"
