"""A model's folder around its weights: token ids, template, tokenizer, card."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from alpage.core.config import LlamaConfig
from alpage.core.errors import FormatError
from alpage.weights.contents import END_TOKENS, Lineage, ModelSource, main_type
from alpage.weights.fields import Fields, clean, read_json
from alpage.weights.mapped import MappedFile, read_text
from alpage.weights.tensor import Tensor

_MAX_TEMPLATE = 1 << 20
_MAX_CONFIG = 1 << 24
_MAX_TOKENIZER = 1 << 27
_MAX_CARD = 1 << 20
_LICENCE_HEAD = 2000
_LICENCES = (
    ("llama 3.3 community license", "llama3.3"),
    ("llama 3.2 community license", "llama3.2"),
    ("llama 3.1 community license", "llama3.1"),
    ("llama 3 community license", "llama3"),
    ("llama 2 community license", "llama2"),
    ("apache license version 2.0", "apache-2.0"),
    ("mit license", "mit"),
)
"""Words at the beginning of a licence's text, and its identifier."""


@dataclass(frozen=True, slots=True)
class FolderText:
    """Fields of `ModelSource` that come from the tokenizer's and generation's files."""

    chat_template: str | None
    tokenizer_file: Path | None
    bos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool


@dataclass(frozen=True, slots=True)
class Card:
    """What the model card (README.md) says about the model's name, rights and origin."""

    name: str | None = None
    licence: str | None = None
    lineage: Lineage = field(default_factory=Lineage)


def folder_source(
    path: Path,
    layout: Literal["huggingface", "meta"],
    config: LlamaConfig,
    tensors: dict[str, Tensor],
    fields: Fields,
    files: list[MappedFile],
) -> ModelSource:
    """The open model of a folder whose weights are `tensors`, in `files`, with what lies beside.

    `fields` is the configuration that may name token ids.
    """
    text = read_text_files(path, fields, config.vocab_size)
    card = read_card(path)
    return ModelSource(
        path=path,
        format=layout,
        config=config,
        tensors=tensors,
        name=card.name or path.resolve().name,
        quantization=main_type(tensors),
        chat_template=text.chat_template,
        tokenizer_file=text.tokenizer_file,
        bos_id=text.bos_id,
        eos_ids=text.eos_ids,
        add_bos=text.add_bos,
        licence=card.licence,
        lineage=card.lineage,
        files=tuple(files),
    )


def read_text_files(path: Path, config: Fields, vocab_size: int) -> FolderText:
    """Read tokenizer_config.json, generation_config.json, chat_template.jinja where they are."""
    settings = _optional(path / "tokenizer_config.json", _MAX_CONFIG)
    generation = _optional(path / "generation_config.json", _MAX_CONFIG)
    names = ("tokenizer.json", "tokenizer.model")
    file = next((path / name for name in names if (path / name).is_file()), None)
    tokenizer = Fields(path, {})
    if file is not None and file.name == "tokenizer.json":
        tokenizer = read_json(file, _MAX_TOKENIZER)
    bos = _ids(config, "bos_token_id", vocab_size) or _ids(generation, "bos_token_id", vocab_size)
    bos_id = bos[0] if bos else None
    eos = set(_ids(config, "eos_token_id", vocab_size))
    eos.update(_ids(generation, "eos_token_id", vocab_size))
    eos.update(_special_ends(tokenizer, settings, vocab_size))
    adds = settings.flag("add_bos_token", _begins_with(tokenizer, bos_id))
    return FolderText(
        _template(path, settings), file, bos_id, frozenset(eos), adds and bos_id is not None
    )


def _optional(path: Path, limit: int) -> Fields:
    return read_json(path, limit) if path.is_file() else Fields(path, {})


def _ids(fields: Fields, key: str, vocab_size: int) -> list[int]:
    """An id or a list of ids; -1 means none."""
    value = fields.values.get(key)
    values = value if type(value) is list else [] if value is None else [value]
    for item in values:
        if type(item) is not int or not -1 <= item < vocab_size:
            raise FormatError(
                f"{fields.path}: {key} should be an id below {vocab_size}, not {item!r:.80}"
            )
    return [item for item in values if item >= 0]


def _special_ends(tokenizer: Fields, settings: Fields, vocab_size: int) -> set[int]:
    """Special tokens that end an answer: the declared `eos_token`, and those known to."""
    declared = settings.values.get("eos_token")
    if type(declared) is dict:
        declared = declared.get("content")
    wanted = {*END_TOKENS, declared} if type(declared) is str else {*END_TOKENS}
    found = set()
    added = tokenizer.values.get("added_tokens")
    for token in added if type(added) is list else []:
        if type(token) is dict and token.get("special") is True:
            content, index = token.get("content"), token.get("id")
            if type(content) is str and content in wanted and type(index) is int:
                found.add(index)
    return {index for index in found if 0 <= index < vocab_size}


def _begins_with(tokenizer: Fields, bos_id: int | None) -> bool:
    """Whether tokenizer.json's post-processor puts `bos_id` in front of a text."""
    processor: Any = tokenizer.values.get("post_processor")
    if type(processor) is not dict or bos_id is None:
        return False
    steps = processor.get("processors") if processor.get("type") == "Sequence" else [processor]
    for step in steps if type(steps) is list else []:
        if type(step) is dict and step.get("type") == "TemplateProcessing":
            match step:
                case {
                    "single": [{"SpecialToken": {"id": str(name)}}, *_],
                    "special_tokens": dict(tokens),
                }:
                    entry = tokens.get(name)
                    return type(entry) is dict and entry.get("ids") == [bos_id]
    return False


def _template(path: Path, settings: Fields) -> str | None:
    """chat_template.jinja, or else `chat_template`: a text, or several by name."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return read_text(file, _MAX_TEMPLATE)
    value = settings.values.get("chat_template")
    if type(value) is not list:
        return settings.text("chat_template")
    named: dict[str, str] = {}
    for item in value:
        match item:
            case {"name": str(name), "template": str(template)}:
                named[name] = template
            case _:
                raise FormatError(
                    f"{settings.path}: every chat_template needs a name and a template"
                )
    return named.get("default") or next(iter(named.values()), None)


def read_card(path: Path) -> Card:
    """Licence, base models and data sets of a folder, as far as its texts say them.

    The licence is the model card's word, or else what the LICENSE file is.
    """
    card = _front_matter(path)
    return card if card.licence else replace(card, licence=_licence_of_text(path))


def _licence_of_text(path: Path) -> str | None:
    """The identifier of the licence whose text lies in the folder; None if there is none known."""
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
        file = path / name
        if not file.is_file():
            continue
        try:
            head = " ".join(read_text(file, _MAX_CARD)[:_LICENCE_HEAD].split()).lower()
        except FormatError:
            return None
        for words, licence in _LICENCES:
            if words in head:
                return licence
    return None


def _front_matter(path: Path) -> Card:
    """What the front matter of README.md says, where it has one.

    Reads the plain `key: value` and `- item` lines that model cards use, not all of YAML: what
    it does not understand it leaves out.
    """
    file = path / "README.md"
    if not file.is_file():
        return Card()
    try:
        lines = read_text(file, _MAX_CARD).splitlines()
    except FormatError:  # a card is for people: a strange one does not stop a model
        return Card()
    if not lines or lines[0].strip() != "---":
        return Card()
    entries: dict[str, list[str]] = {}
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if line.lstrip().startswith("- "):
            entries.setdefault(key, []).append(_plain(line.lstrip()[2:]))
        elif not line.startswith((" ", "#")) and ":" in line:
            key, _, value = line.partition(":")
            if _plain(value):
                entries.setdefault(key, []).append(_plain(value))
    licence = entries.get("license_name") or entries.get("license")
    authors = entries.get("author")
    name = entries.get("model_name")
    return Card(
        name[0] if name else None,
        licence[0] if licence else None,
        Lineage(
            authors=authors[0] if authors else None,
            base_models=tuple(entries.get("base_model", ())),
            datasets=tuple(entries.get("datasets", ())),
            contributions=tuple(entries.get("contributions", ())),
        ),
    )


def _plain(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        return clean(value[1:-1].replace('\\"', '"').replace("\\\\", "\\"))
    return clean(value.strip("'\""))
