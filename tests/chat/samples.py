"""Templates in the styles that models come with, written for these tests, and conversations."""

from typing import Any

MISTRAL_LIKE = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}\
{% set system = '' %}{% set rest = messages %}{% endif %}{% for message in rest %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\
{% endif %}{% if loop.first and system %}{% set content = system + '\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}\
{{ '[INST] ' + content | trim + ' [/INST]' }}{% elif message['role'] == 'assistant' %}\
{{ ' ' + content.strip() + eos_token }}{% endif %}{% endfor %}"""

ZEPHYR_LIKE = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

PHI_LIKE = """{{ bos_token }}{% for message in messages %}\
{{ '<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

TOOLS_CHATML = """\
{%- macro describe(tool, depth=0) -%}
  {{- '  ' * depth ~ tool.name|upper ~ ': ' ~ (tool.description|default('none', true)) -}}
  {%- for key, value in (tool.parameters.properties or {}).items()|sort -%}
    {{- '\\n' ~ '  ' * (depth + 1) ~ '%s (%s)' % (key, value.type|default('any')) -}}
  {%- endfor -%}
{%- endmacro -%}
{%- if tools is not none and tools %}
{{- '<|im_start|>system\\n' }}
{%- for tool in tools %}
{{- describe(tool.function, depth=1) ~ '\\n' ~ tool|tojson ~ '\\n' ~ tool|tojson(indent=2) }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(turns=0, seen=[]) %}
{%- for message in messages -%}
{%- if message.role == 'user' %}{% set ns.turns = ns.turns + 1 %}{% endif %}
{%- set ns.seen = ns.seen + [message.role] %}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{% generation %}{{ message.content.split('</think>')[-1].lstrip('\\n') }}{% endgeneration %}
{%- elif message.content is not none -%}
{% for part in message.content %}{{ part['text'] }}{% if not loop.last %}|{% endif %}{% endfor %}
{%- endif %}
{%- for call in message.tool_calls or [] %}
{%- set call = call.function if call.function is defined else call %}
{{ '\\n<tool_call>\\n{"name": "' }}{{ call.name }}", "arguments": {{ call.arguments|tojson }}}
</tool_call>
{%- if call.arguments is mapping and call.arguments.stop is defined %}{% break %}{% endif %}
{%- endfor %}<|im_end|>
{% endfor -%}
{{ ns.turns }} {{ ns.seen|join(', ') }} {{ ns.seen|unique|list|length }} {{ messages[-1:]|length }}
{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='role')|list }}
{{ messages|map(attribute='role')|join('/') }} {{ [1, 2.5, none, true, 'x"y'] }} {{ {'a': 1} }}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather of a place, <now> & soon: 'ça va' \"日本\"",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {}}},
]

HELLO = [{"role": "user", "content": "Hello!"}]
TALK = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "  Hi <b>there</b> & 'you' — 日本語 🏔  "},
    {"role": "assistant", "content": "<think>hm</think>\nHello"},
    {"role": "user", "content": "{{ 7 * 7 }} {% raw %}"},
]
TOOL_TALK = [
    {"role": "user", "content": "Weather in Bern?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Bern", "q": ["<", "é"]}},
            }
        ],
    },
    {"role": "tool", "content": '{"sky": "blue"}', "tool_call_id": "call_1"},
    {"role": "assistant", "content": "Blue sky."},
    {"role": "user", "content": "Thanks"},
]
PARTS_TALK = [
    {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
]
