"""Rendering equals Hugging Face's for the same template and messages."""

from pathlib import Path
from typing import Any

import pytest
from tests.chat import samples

from alpage.chat import ChatTemplate, fallback_template
from alpage.chat.fallback import CHATML, LLAMA3, PLAIN
from alpage.core.errors import InputError, TemplateError

BOS, EOS = "<|begin_of_text|>", "</s>"


def hugging_face(source: str, messages: Any, **options: Any) -> str:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=Tokenizer(models.BPE()), bos_token=BOS, eos_token=EOS)
    text = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **options)
    assert isinstance(text, str)
    return text


def ours(source: str, messages: Any, **options: Any) -> str:
    return ChatTemplate(source, bos_token=BOS, eos_token=EOS).render_text(messages, **options)


WITHOUT_TOOLS = {
    "mistral": samples.MISTRAL_LIKE,
    "zephyr": samples.ZEPHYR_LIKE,
    "phi": samples.PHI_LIKE,
    "chatml": CHATML,
    "plain": PLAIN,
    "llama3": LLAMA3,
    "tools": samples.TOOLS_CHATML,
}


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("messages", [samples.HELLO, samples.TALK], ids=["hello", "talk"])
@pytest.mark.parametrize("name", WITHOUT_TOOLS)
def test_equal_to_transformers(name: str, messages: Any, generate: bool) -> None:
    source = WITHOUT_TOOLS[name]
    expected = hugging_face(source, messages, add_generation_prompt=generate)
    assert ours(source, messages, add_generation_prompt=generate) == expected


@pytest.mark.parametrize("tools", [samples.TOOLS, None], ids=["tools", "no tools"])
@pytest.mark.parametrize("talk", ["HELLO", "TALK", "TOOL_TALK"])
@pytest.mark.parametrize("name", ["llama3", "tools"])
def test_tools_equal_to_transformers(name: str, talk: str, tools: Any) -> None:
    source, messages = WITHOUT_TOOLS[name], getattr(samples, talk)
    expected = hugging_face(source, messages, tools=tools, add_generation_prompt=True)
    assert ours(source, messages, tools=tools) == expected


def test_text_parts_equal_to_transformers() -> None:
    source = samples.TOOLS_CHATML
    expected = hugging_face(source, samples.PARTS_TALK, add_generation_prompt=True)
    assert ours(source, samples.PARTS_TALK) == expected
    assert "one|two" in expected


def test_extra_values_reach_the_template() -> None:
    options: Any = {"date_string": "1 Jan 2030", "builtin_tools": ["brave_search", "wolfram_alpha"]}
    expected = hugging_face(LLAMA3, samples.TALK, add_generation_prompt=True, **options)
    assert ours(LLAMA3, samples.TALK, **options) == expected
    assert "Environment: ipython\nTools: brave_search, wolfram_alpha\n" in expected
    assert "Today Date: 1 Jan 2030\n" in expected


def test_the_default_models_own_template(smollm2_path: Path) -> None:
    from gguf import GGUFReader

    field = GGUFReader(smollm2_path).fields["tokenizer.chat_template"]
    source = str(field.contents())
    for messages in (samples.HELLO, samples.TALK):
        for generate in (True, False):
            expected = hugging_face(source, messages, add_generation_prompt=generate)
            assert ours(source, messages, add_generation_prompt=generate) == expected


def test_llama3_format() -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    assert ours(LLAMA3, talk) == (
        "<|begin_of_text|>"
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_llama3_tool_calls_and_results() -> None:
    text = ours(LLAMA3, samples.TOOL_TALK, tools=samples.TOOLS)
    assert text.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, "
    )
    assert (
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "weather", "parameters": {"city": "Bern", "q": ["<", "é"]}}<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n{"sky": "blue"}<|eot_id|>'
    ) in text


@pytest.mark.parametrize(
    ("name", "arguments", "written"),
    [
        ("brave_search", {"query": 'say "hi"'},
         '<|python_tag|>brave_search.call(query="say \\"hi\\"")<|eom_id|>'),
        ("code_interpreter", {"code": "print(1)"}, "<|python_tag|>print(1)<|eom_id|>"),
    ],
)  # fmt: skip
def test_llama3_built_in_calls(name: str, arguments: Any, written: str) -> None:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    talk: Any = [*samples.HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    builtin = ["brave_search", "code_interpreter"]
    assert written in ours(LLAMA3, talk, builtin_tools=builtin)
    assert "<|python_tag|>" not in ours(LLAMA3, talk)


def test_arguments_as_a_string_of_json_become_an_object() -> None:
    call = {"id": "1", "type": "function",
            "function": {"name": "f", "arguments": '{"a": [1, "é"]}'}}  # fmt: skip
    talk: Any = [*samples.HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert '{"name": "f", "parameters": {"a": [1, "é"]}}' in ours(LLAMA3, talk)


@pytest.mark.parametrize("none", [None, []])
def test_no_tool_calls_is_no_key(none: Any) -> None:
    talk: Any = [*samples.HELLO, {"role": "assistant", "content": "Hi", "tool_calls": none}]
    source = "{% for m in messages %}{{ 'tool_calls' in m }} {% endfor %}"
    assert ours(source, talk) == "False False "


def test_a_template_that_ignores_tools_gets_them_as_text() -> None:
    text = ours(CHATML, samples.TOOL_TALK, tools=samples.TOOLS)
    assert text.startswith("<|im_start|>system\nYou may call these functions")
    assert '"name": "now"' in text
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"' in text
    with_system = ours(CHATML, samples.TALK, tools=samples.TOOLS)
    assert with_system.startswith("<|im_start|>system\nBe brief.\n\n\nYou may call")
    assert with_system.count("<|im_start|>system") == 1


def test_text_parts_become_one_text_where_the_template_knows_no_parts() -> None:
    assert "<|im_start|>user\none\ntwo<|im_end|>" in ours(CHATML, samples.PARTS_TALK)


@pytest.mark.parametrize(
    ("tokens", "source"),
    [
        ({"<|start_header_id|>", "<|im_start|>"}, LLAMA3),
        ({"<|im_start|>", "<|im_end|>"}, CHATML),
        ({"<s>", "</s>"}, PLAIN),
        (set(), PLAIN),
    ],
)
def test_fallback_is_chosen_by_special_tokens(tokens: set[str], source: str) -> None:
    assert fallback_template(tokens) == source


def test_plain_transcript() -> None:
    assert ours(PLAIN, samples.TALK[:3]) == (
        "<|begin_of_text|>Be brief.\n\n\nUser:   Hi <b>there</b> & 'you' — 日本語 🏔  \n"
        "Assistant: <think>hm</think>\nHello\nAssistant:"
    )


def test_the_callers_messages_are_not_changed() -> None:
    import copy

    talk = copy.deepcopy(samples.TOOL_TALK)
    ours(CHATML, talk, tools=samples.TOOLS)
    assert talk == samples.TOOL_TALK


def test_what_a_template_raises_is_the_messages_fault() -> None:
    talk = [samples.HELLO[0], samples.HELLO[0]]
    with pytest.raises(InputError, match="roles must alternate user/assistant"):
        ours(samples.MISTRAL_LIKE, talk)


CALL = {"function": {"name": "f", "arguments": {}}}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages must hold at least one message, but the list is empty"),
        ("hi", "messages must be a list of messages like .*, not str"),
        ({"role": "user"}, "messages must be a list of messages like .*, not dict"),
        (["hi"], r"messages\[0\] must be a dictionary with role and content, not str"),
        ([*samples.HELLO, {"content": "x"}], r"messages\[1\] has role None; known roles: system,"),
        ([{"role": "root", "content": "x"}], r"messages\[0\] has role 'root'; known roles: system"),
        ([{"role": ["user"], "content": "x"}], r"messages\[0\] has role \['user'\]; known roles"),
        ([{"role": "user"}], r"messages\[0\] \(user\) has no content; it must be text"),
        ([{"role": "user", "content": None}], r"messages\[0\] \(user\) has no content"),
        ([{"role": "assistant", "content": None}], r"messages\[0\] \(assistant\) has no content"),
        ([{"role": "user", "content": 7}], r"messages\[0\] has content of type int; it must be"),
        ([{"role": "user", "content": {"text": "x"}}], r"messages\[0\] has content of type dict"),
        ([{"role": "user", "content": ["x"]}], r"messages\[0\].content\[0\] is of type 'str'; onl"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
         r"messages\[0\].content\[0\] is of type 'image_url'; only text parts"),
        ([{"role": "user", "content": [{"type": "image", "text": "x"}]}],
         r"messages\[0\].content\[0\] has type 'image'; only 'text' can be used"),
        ([{"role": "assistant", "content": None, "tool_calls": CALL}],
         r"messages\[0\].tool_calls must be a list, not dict"),
        ([{"role": "assistant", "content": None, "tool_calls": ["f"]}],
         r"messages\[0\].tool_calls\[0\] must be a JSON object with a function that has a name"),
        ([{"role": "user", "content": "x", "when": object()}],
         r"messages\[0\].when holds a object; only JSON values can be used"),
        ([{"role": "user", "content": "x", 3: 4}], r"messages\[0\] has the key 3; keys must be"),
        ([{"role": "user", "content": b"x"}], r"messages\[0\].content holds a bytes; only JSON"),
    ],
)  # fmt: skip
def test_malformed_messages(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ours(CHATML, messages)


def test_too_deep_messages() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InputError, match=r"is nested more than 32 deep"):
        ours(CHATML, [{"role": "user", "content": "x", "extra": deep}])


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("f", "tools must be a list of JSON objects, not str"),
        ({"f": 1}, "tools must be a list of JSON objects, not dict"),
        (["f"], r"tools\[0\] must be a JSON object, not str"),
        ([{"f": {1}}], r"tools\[0\].f holds a set; only JSON values"),
    ],
)
def test_malformed_tools(tools: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ours(CHATML, samples.HELLO, tools=tools)


def test_an_empty_list_of_tools_is_none() -> None:
    assert ours(LLAMA3, samples.HELLO, tools=[]) == ours(LLAMA3, samples.HELLO)


@pytest.mark.parametrize("source", ["", "  \n", None])
def test_an_empty_template(source: Any) -> None:
    with pytest.raises(TemplateError, match="the model's chat template is empty"):
        ChatTemplate(source)


def test_a_long_conversation() -> None:
    talk = samples.TALK[1:3] * 400 + samples.HELLO
    text = ours(samples.MISTRAL_LIKE, talk)
    assert text.count("[INST]") == 401
    big = [{"role": "user", "content": "word " * 200_000}]
    assert len(ours(LLAMA3, big)) > 1_000_000


def test_one_template_renders_in_many_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    template = ChatTemplate(samples.TOOLS_CHATML, bos_token=BOS, eos_token=EOS)
    talks: Any = [[{"role": "user", "content": f"number {i}"}] for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(template.render_text, talks))
    assert texts == [template.render_text(talk) for talk in talks]
