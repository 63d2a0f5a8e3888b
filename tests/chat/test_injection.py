"""No text of a request can become a special token, whatever the template does with it."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chat import samples

from alpage.chat import ChatTemplate, Segment
from alpage.chat.fallback import CHATML, LLAMA3, PLAIN

SPECIAL = (
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
    "<|python_tag|>", "<|im_start|>", "<|im_end|>", "</s>", "<|user|>", "<|system|>",
    "<|assistant|>", "<|end|>", "<tool_call>", "</tool_call>",
)  # fmt: skip
TEMPLATES = {
    "mistral": samples.MISTRAL_LIKE,
    "zephyr": samples.ZEPHYR_LIKE,
    "phi": samples.PHI_LIKE,
    "tools": samples.TOOLS_CHATML,
    "chatml": CHATML,
    "plain": PLAIN,
    "llama3": LLAMA3,
}
HARMLESS = "word"


def tokens_of(source: str, messages: Any, **options: Any) -> list[str]:
    template = ChatTemplate(source, bos_token="<|begin_of_text|>", eos_token="</s>")
    return special_in(template.render(messages, **options))


def special_in(parts: list[Segment]) -> list[str]:
    """The special tokens of a prompt: found in special segments, and in one segment each."""
    pattern = "|".join(re.escape(name) for name in SPECIAL)
    return [name for part in parts if part.special for name in re.findall(pattern, part.text)]


def talk(text: str) -> list[dict[str, Any]]:
    call = {"id": text, "type": "function",
            "function": {"name": text, "arguments": {text: {text: [text]}}}}  # fmt: skip
    return [
        {"role": "system", "content": text, "name": text},
        {"role": "user", "content": text, "name": text},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "user", "content": text},
        {"role": "assistant", "content": text, text: text},
        {"role": "user", "content": [{"type": "text", "text": text}] * 2},
    ]  # fmt: skip


def tools(text: str) -> list[dict[str, Any]]:
    properties = {text: {"type": text, "description": text}}
    return [{"type": "function", "function": {
        "name": text, "description": text, "parameters": {"properties": properties}}}]  # fmt: skip


hostile = st.lists(
    st.sampled_from([*SPECIAL, "<|", "|>", "im_end", "<|im_", "end|>", "\n", " ", "x", "<", ">"]),
    min_size=1,
    max_size=5,
).map("".join)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=40, deadline=None)
@given(text=hostile)
def test_hostile_text_adds_and_removes_no_special_token(name: str, text: str) -> None:
    source = TEMPLATES[name]
    expected = tokens_of(source, talk(HARMLESS), tools=tools(HARMLESS))
    # A visible word before and after keeps the template's own branches (empty or not) the same.
    dressed = f"a{text}a"
    assert tokens_of(source, talk(dressed), tools=tools(dressed)) == expected


FORMS = {
    "concatenation": "{{ '<|im_' + messages[0].content + 'end|>' }}",
    "tilde": "{{ '<|im_' ~ messages[0].content ~ 'end|>' }}",
    "data": "<|im_{{ messages[0].content }}end|>",
    "join": "{{ ['<|', messages[0].content, '|>'] | join('im_end') }}",
    "str.join": "{{ messages[0].content.join(['<|im_end', '|>']) }}",
    "percent": "{{ '<|im_%s|>' % messages[0].content }}",
    "format filter": "{{ '<|im_%s|>' | format(messages[0].content) }}",
    "str.format": "{{ '<|im_{}|>'.format(messages[0].content) }}",
    "format by name": "{{ '<|im_{x}|>'.format(x=messages[0].content) }}",
    "replace": "{{ '<|im_X|>' | replace('X', messages[0].content) }}",
    "str.replace": "{{ '<|im_X|>'.replace('X', messages[0].content) }}",
    "set block": "{% set x %}<|im_{{ messages[0].content }}end|>{% endset %}{{ x | trim }}",
    "macro": "{% macro m(x) %}<|im_{{ x }}{{ caller() }}{% endmacro %}"
    "{% call m(messages[0].content) %}end|>{% endcall %}",
    "filter block": "{% filter lower %}<|IM_{{ messages[0].content }}END|>{% endfilter %}",
    "namespace": "{% set ns = namespace(x='<|im_') %}{% set ns.x = ns.x ~ messages[0].content %}"
    "{{ ns.x ~ 'end|>' }}",
    "list": "{{ ['<|im_end|>', messages[0].content] }}",
    "tojson": "{{ {'<|im_end|>': messages[0].content} | tojson }}",
    "case": "{{ ('<|IM_END|>' ~ messages[0].content) | lower }}",
    "indent": "{{ messages[0].content | indent(2) }}",
    "reversed": "{{ messages[0].content | reverse }}",
    "characters": "{% for c in messages[0].content %}{{ c }}{% endfor %}",
    "sorted keys": "{% for k, v in messages[0] | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "message": "{{ messages }}",
    "extra": "{{ note }}",
    "cut": "{{ ('a' ~ messages[0].content)[1:] }}",
    "title": "{{ messages[0].content | title }}",
    "default": "{{ nothing | default(messages[0].content) }}",
    "first": "{{ [messages[0].content] | first | string | trim }}",
    "arithmetic": "{{ messages[0].content * 2 }}",
    "escape": "{{ messages[0].content | e | safe }}",
    "truncate": "{{ messages[0].content | truncate(40) }}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text", ["<|im_end|>", "end", "", "im_end", "<|im_", "|>", ">|dne_mi|<", "e", "|im_end|"]
)
def test_each_way_to_put_a_message_into_a_template(form: str, text: str) -> None:
    template = ChatTemplate(FORMS[form])
    messages = [{"role": "user", "content": text}]
    for part in template.render(messages, note=text):
        # Each trusted character is one of the template's own: none of them can spell the token
        # unless its literals touch, which an empty message lets them do, as in any engine.
        if part.special and "<|im_end|>" in part.text.lower():
            assert not text or form == "case"


def test_equal_text_from_literal_and_content_is_told_apart() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    messages = [{"role": "user", "content": "<|im_end|>"}]
    assert template.render(messages) == [
        Segment("<|im_end|>", special=False),
        Segment("<|im_end|>", special=True),
    ]


def test_role_names_may_stand_inside_special_tokens() -> None:
    template = ChatTemplate(samples.PHI_LIKE, bos_token="</s>")
    found = special_in(template.render(samples.HELLO))
    assert found == ["</s>", "<|user|>", "<|end|>", "<|assistant|>"]


def test_comparisons_see_plain_strings() -> None:
    template = ChatTemplate(
        "{{ messages[0].content == '<|x|>' and messages[0].content.startswith('<|') "
        "and messages[0].role == 'user' and messages[0]['role'] in ['user'] "
        "and messages[0].content is string and '|x' in messages[0].content "
        "and messages[0].content | length == 5 and {'<|x|>': 1}[messages[0].content] == 1 }}"
    )
    assert template.render_text([{"role": "user", "content": "<|x|>"}]) == "True"
