"""What fuzzing has found, each as the smallest case that showed it."""

import base64
import warnings
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.fuzz.folder_input import CONFIG, small_folder, tokenizer
from tests.fuzz.gguf_input import GgufInput, Shape, small_model
from tests.fuzz.values import Raw, dump
from tests.weights.gguf_files import ARRAY, STRING, U32

from alpage.chat import ChatTemplate
from alpage.core.errors import AlpageError, FormatError, TemplateError
from alpage.tokenizer import from_tiktoken
from alpage.tokenizer.matcher import TokenMatcher
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType


def folder_with(folder: Path, file: str, **values: Any) -> Path:
    made = small_folder(Random(0), CONFIG)
    made.documents[file].update(values)
    return made.write(folder)


def test_an_end_token_whose_content_is_no_text(tmp_path: Path) -> None:
    """`TypeError: unhashable type`: the content went into a set unseen."""
    path = folder_with(tmp_path, "tokenizer_config.json", eos_token={"content": [1]})
    with open_model(path) as source:
        assert source.eos_ids == {2, 4}


def test_a_number_of_four_thousand_digits(tmp_path: Path) -> None:
    """The message repeated all of them."""
    path = folder_with(tmp_path, "config.json", vocab_size=Raw("9" * 4000))
    with pytest.raises(
        FormatError, match="vocab_size should be a whole number of at most 64 bits"
    ) as e:
        open_model(path)
    assert len(str(e.value)) < 300


def test_an_alignment_that_is_a_long_list(tmp_path: Path) -> None:
    """The message repeated all of it."""
    file = small_model(Random(0), Shape(), [TensorType.F32])
    file.set("general.alignment", ARRAY, (U32, [1] * 2000))
    with pytest.raises(FormatError, match=r"not \[1, 1, ") as caught:
        open_model(GgufInput(file, Shape(), []).write(tmp_path))
    assert len(str(caught.value)) < 400


def test_an_error_has_no_control_characters_and_an_end() -> None:
    """A message may quote a file, and a file may hold commands for a terminal."""
    assert str(FormatError("a\x1b[31m\u202e\ud800b\nc")) == "a\ufffd[31m\ufffd\ufffdb\nc"
    text = str(FormatError("a" * 50_000 + "b"))
    assert len(text) < 20_100
    assert text.endswith("ab")


@pytest.mark.timeout(60)
def test_special_tokens_with_very_many_first_characters() -> None:
    """Compiling one expression of them took 8 s for a file of 4 MB, and each letter 1 ms."""
    ids = {chr(0x10000 + at) + "x": at for at in range(300_000)}
    matcher = TokenMatcher({**ids, "\u4e00": 300_000})
    assert list(matcher.split("ab\U00010000x\U00010001y\u4e00\U00010002x")) == [
        "ab", 0, "\U00010001y", 300_000, 2,
    ]  # fmt: skip
    assert list(TokenMatcher({}).split("ab")) == ["ab"]
    assert list(matcher.split("y" * 200_000)) == ["y" * 200_000]


def test_texts_of_metadata_are_repeated_in_part(tmp_path: Path) -> None:
    """A merge of 5,000 characters stood in the message whole."""
    from alpage.llama.text import load_text_side

    file = small_model(Random(0), Shape(), [TensorType.F32])
    file.set("tokenizer.ggml.merges", ARRAY, (STRING, ["y" * 5000]))
    path = GgufInput(file, Shape(), []).write(tmp_path)
    with open_model(path) as source, pytest.raises(FormatError) as caught:
        load_text_side(source)
    assert len(str(caught.value)) < 400


def test_pieces_are_repeated_in_part(tmp_path: Path) -> None:
    """A token of 5,000 characters, in whatever is wrong with it, stood in the message whole."""
    from alpage.tokenizer import from_tokenizer_json

    long = "y" * 5000
    for change in (
        {"vocab": {long: -1}},
        {"type": long},
        {"merges": [long]},
        {"vocab": {long: 0, "a": 0}},
        {"vocab": {"a": 0}, "merges": [["a", long]]},
        {"dropout": long},
    ):
        document = tokenizer()
        document["model"].update(change)
        document["added_tokens"] = []
        path = tmp_path / "tokenizer.json"
        path.write_text(dump(document))
        with pytest.raises(AlpageError) as caught:
            from_tokenizer_json(path)
        assert len(str(caught.value)) < 500


def test_a_tiktoken_piece_of_a_thousand_bytes(tmp_path: Path) -> None:
    """10,000 of them took 5 s to look for their merges."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(base64.b64encode(bytes(257)) + b" 0\n")
    with pytest.raises(FormatError, match="line 1: a token has 1 to 256 bytes, not 257"):
        from_tiktoken(path)


def test_a_template_that_makes_python_comment_on_it() -> None:
    """`SyntaxWarning: 'int' object is not subscriptable` went to the terminal."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        template = ChatTemplate("{{ (1)[2:3] }}{{ 1() }}")
    assert not seen
    with pytest.raises(TemplateError):
        template.render([{"role": "user", "content": "a"}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ dict | string }}",
        "{{ range | upper }}",
        "{{ (''.join) | trim }}",
        "{% set ns = namespace(x=range) %}{{ ns.x | e }}",
        "{{ 'a' | replace('a', range) }}",
        "{{ nothing | default(range) | title }}",
        "{{ raise_exception(strftime_now) }}",
        "{% filter upper %}{{ range }}{% endfilter %}",
    ],
)
def test_a_template_that_writes_a_function(source: str) -> None:
    """A filter wrote `<class 'dict'>`, and of functions where they are in memory."""
    with pytest.raises(TemplateError, match="failed: it may not write a "):
        ChatTemplate(source).render([{"role": "user", "content": "a"}])


def test_a_function_may_be_asked_for() -> None:
    source = "{% if strftime_now is defined %}{% set f = strftime_now | default(1) %}{{ f('%Y') }}"
    assert ChatTemplate(source + "{% endif %}").render([{"role": "user", "content": "a"}])


def test_a_template_of_very_many_small_tokens() -> None:
    """58 kB of `{{ range.depth() }}` took 74 MB to compile."""
    source = "{{ range.depth() }}" * 2_000
    with pytest.raises(TemplateError, match="it has 14,000 tokens; at most 12,000 are read"):
        ChatTemplate(source)
    ChatTemplate("{{ range.depth() }}" * 1_700)
    ChatTemplate("x" * 60_000)
