"""A model's text side in each format: tokenizer, template, the ids that begin and end."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpage.convert.hf import write_json
from alpage.convert.metadata import Entries
from alpage.core.errors import UnsupportedError
from alpage.llama.text import load_text_side
from alpage.tokenizer import (
    Tokenizer,
    to_gguf_metadata,
    to_sentencepiece,
    to_tiktoken,
    to_tokenizer_config,
    to_tokenizer_json,
)
from alpage.tokenizer.spaces import SpaceRule
from alpage.weights.contents import ModelSource
from alpage.weights.gguf_write import STRING, U32

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_UNUSED = 5
_UNUSED_SCORE = -10000.0
_ENDS = ("eos", "eot", "eom")
_HF_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ends:
    """Ids that begin and end a text; the main end comes first."""

    bos_id: int | None
    eos_ids: Sequence[int]


def tokenizer_of(source: ModelSource) -> Tokenizer | None:
    """The tokenizer; None where the source has none. Errors as the reader's."""
    if source.gguf_metadata is not None:
        known = source.gguf_metadata.get(_PREFIX + "model") not in (None, "no_vocab")
    else:
        known = source.tokenizer_file is not None
    return load_text_side(source).tokenizer if known else None


def ends_of(source: ModelSource, tokenizer: Tokenizer | None) -> Ends:
    """What the source and its tokenizer say together."""
    ids, bos, main = set(source.eos_ids), source.bos_id, None
    if tokenizer is not None:
        ids |= tokenizer.stop_ids
        bos, main = (tokenizer.bos_id if bos is None else bos), tokenizer.eos_id
    first = [main] if main is not None and main in ids else []
    return Ends(bos, [*first, *sorted(ids - set(first))])


def tokenizer_metadata(source: ModelSource) -> Entries:
    """The GGUF entries of tokenizer and template that `model_metadata` has not copied yet."""
    if source.gguf_metadata is not None:
        return {}
    tokenizer = tokenizer_of(source)
    if tokenizer is None:
        return {_PREFIX + "model": ((STRING,), "no_vocab")}
    entries: Entries = dict(to_gguf_metadata(tokenizer))
    _pad(entries, source.config.vocab_size)
    ids = {entries[key][1] for name in _ENDS if (key := f"{_PREFIX}{name}_token_id") in entries}
    free = [name for name in _ENDS if f"{_PREFIX}{name}_token_id" not in entries]
    missing = [end for end in ends_of(source, tokenizer).eos_ids if end not in ids]
    for name, end in zip(free, missing, strict=False):
        entries[f"{_PREFIX}{name}_token_id"] = ((U32,), end)
    if source.bos_id is not None:
        entries.setdefault(f"{_PREFIX}bos_token_id", ((U32,), source.bos_id))
    if source.chat_template is not None:
        entries[_TEMPLATE] = ((STRING,), source.chat_template)
    return entries


def _pad(entries: Entries, vocab_size: int) -> None:
    """Name the rows of the embedding that no token has: GGUF counts tokens and rows alike."""
    for name, filler in (("tokens", None), ("token_type", _UNUSED), ("scores", _UNUSED_SCORE)):
        key = _PREFIX + name
        if key in entries:
            kinds, values = entries[key]
            values = list(values)
            entries[key] = (
                kinds,
                values
                + [
                    f"[PAD{index}]" if filler is None else filler
                    for index in range(len(values), vocab_size)
                ],
            )


def write_hf_text(source: ModelSource, folder: Path) -> Ends:
    """Write tokenizer and template as transformers has them; those of a like folder are copied."""
    tokenizer = tokenizer_of(source)
    ends = ends_of(source, tokenizer)
    if source.format == "huggingface":
        for name in _HF_FILES:
            if (source.path / name).is_file():
                shutil.copyfile(source.path / name, folder / name)
        if (folder / "tokenizer.json").exists():
            return ends
    if tokenizer is not None:
        write_json(folder / "tokenizer.json", to_tokenizer_json(tokenizer))
        settings = to_tokenizer_config(tokenizer, source.chat_template)
        write_json(folder / "tokenizer_config.json", settings)
    if source.chat_template is not None:
        (folder / "chat_template.jinja").write_text(source.chat_template, "utf-8")
    return ends


def write_meta_text(source: ModelSource, folder: Path) -> list[str]:
    """Write tokenizer.model, and what Meta's layout has no place for in transformers' files.

    Returns what a person should know: a tokenizer that only Alpage and transformers read there.
    """
    tokenizer = tokenizer_of(source)
    ends = ends_of(source, tokenizer)
    notes = []
    file = source.tokenizer_file
    if file is not None and file.name == "tokenizer.model":
        shutil.copyfile(file, folder / file.name)
    elif tokenizer is not None:
        try:
            write = to_sentencepiece if isinstance(tokenizer.rule, SpaceRule) else to_tiktoken
            (folder / "tokenizer.model").write_bytes(write(tokenizer))
        except UnsupportedError as error:
            notes.append(f"the tokenizer is written as tokenizer.json: {error}")
            write_json(folder / "tokenizer.json", to_tokenizer_json(tokenizer))
            settings = to_tokenizer_config(tokenizer, source.chat_template)
            write_json(folder / "tokenizer_config.json", settings)
    if source.chat_template is not None:
        (folder / "chat_template.jinja").write_text(source.chat_template, "utf-8")
    if ends.eos_ids or ends.bos_id is not None:
        write_json(folder / "generation_config.json", generation_ids(ends))
    return notes


def generation_ids(ends: Ends) -> dict[str, Any]:
    """`bos_token_id` and `eos_token_id` as configuration files have them."""
    ids: dict[str, Any] = {}
    if ends.bos_id is not None:
        ids["bos_token_id"] = ends.bos_id
    if ends.eos_ids:
        ids["eos_token_id"] = ends.eos_ids[0] if len(ends.eos_ids) == 1 else list(ends.eos_ids)
    return ids
