"""A model's text side: its tokenizer, its chat template, and the ids that end an answer."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpage.chat import Notation, fallback_template
from alpage.core.errors import FormatError, UsageError
from alpage.core.types import Message
from alpage.tokenizer import Tokenizer, from_gguf
from alpage.weights.source import ModelSource

if TYPE_CHECKING:
    from alpage.chat import ChatTemplate

_SHOWN = ("<|python_tag|>", Notation.TAGGED.value, "</tool_call>")
_LLAMA3 = ("<|python_tag|>", "<|start_header_id|>")


class TextSide:
    """Text to prompt ids. Immutable, so threads may share it."""

    def __init__(
        self, tokenizer: Tokenizer, *, chat_template: str | None, end_ids: frozenset[int]
    ) -> None:
        self.tokenizer = tokenizer
        self.end_ids = end_ids | tokenizer.stop_ids
        self.template_source = chat_template or fallback_template(tokenizer.special_ids)

    @cached_property
    def template(self) -> "ChatTemplate":
        """The model's own template, else the one that its special tokens point to."""
        from alpage.chat import ChatTemplate  # loads jinja2, so only where somebody chats

        return ChatTemplate(
            self.template_source,
            bos_token=self._special_text(self.tokenizer.bos_id),
            eos_token=self._special_text(self.tokenizer.eos_id),
        )

    @cached_property
    def shown_in_calls(self) -> frozenset[int]:
        """Special tokens that belong to the text when tool calls are looked for."""
        known = self.tokenizer.special_ids
        return frozenset(known[text] for text in _SHOWN if text in known)

    @cached_property
    def notation(self) -> Notation | None:
        """How the model's template writes calls; None for a way that is not read here."""
        source = self.template.source
        if not self.template.knows_tools or Notation.TAGGED.value in source:
            return Notation.TAGGED  # a template that knows no tools has them told in this one
        if Notation.FUNCTION.value in source:
            return Notation.FUNCTION
        if '"parameters"' in source and any(t in self.tokenizer.special_ids for t in _LLAMA3):
            return Notation.BARE
        return None

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of plain text, with the begin-of-text token where the model expects one."""
        return self.tokenizer.encode(text, add_bos=self._add_bos)

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        begun: str = "",
    ) -> list[int]:
        """Ids of a conversation, up to where the answer begins, or goes on after `begun`."""
        return self.render_chat(messages, tools, variables, begun)[1]

    def render_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        begun: str = "",
    ) -> tuple[str, list[int]]:
        """The same as text, as the template writes it, and as ids."""
        rendered = self.template.render(messages, tools=tools, **variables)
        parts = [(part.text, part.special) for part in rendered]
        ids = self.tokenizer.encode_segments([*parts, (begun, False)] if begun else parts)
        if self._add_bos and ids[:1] != [self.tokenizer.bos_id]:
            # Some templates leave it to the tokenizer; the model was still trained with it.
            ids = [*self.tokenizer.encode("", add_bos=True), *ids]
        return "".join(part.text for part in rendered), ids

    @property
    def _add_bos(self) -> bool:
        return self.tokenizer.add_bos and self.tokenizer.bos_id is not None

    def _special_text(self, token: int | None) -> str:
        return "" if token is None else self.tokenizer.token_bytes(token).decode("utf-8", "replace")


def load_text_side(source: ModelSource) -> TextSide:
    """Build the text side of an open model; FormatError where it has no tokenizer."""
    if source.gguf_metadata is not None:
        tokenizer = from_gguf(source.gguf_metadata)
    elif source.tokenizer_file is None:
        raise FormatError(
            f"{source.path} has no tokenizer: neither tokenizer.json nor tokenizer.model"
        )
    else:
        tokenizer = _from_file(source.tokenizer_file)
    if tokenizer.vocab_size > source.config.vocab_size:
        raise FormatError(
            f"{source.path}: the tokenizer has {tokenizer.vocab_size} tokens, but the weights "
            f"know {source.config.vocab_size}"
        )
    return TextSide(tokenizer, chat_template=source.chat_template, end_ids=source.eos_ids)


def check_same_vocabulary(tokenizer: Tokenizer, draft: ModelSource) -> None:
    """A UsageError unless `draft` gives every id the meaning that it has in `tokenizer`."""
    other = load_text_side(draft).tokenizer
    one, two = tokenizer.vocabulary, other.vocabulary
    if len(one.pieces) != len(two.pieces):
        found = f"it has {len(two.pieces)} tokens, not {len(one.pieces)}"
    elif one.special != two.special:
        found = "its control tokens are others"
    else:
        pairs = zip(one.pieces, two.pieces, strict=True)
        differs = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if differs is None and one.raw_bytes == two.raw_bytes:
            return
        found = "its bytes are others" if differs is None else f"token {differs} is another one"
    raise UsageError(f"{draft.path.name} cannot draft for this model: {found}")


def _from_file(path: Path) -> Tokenizer:
    # Here, because a GGUF file needs none of these.
    from alpage.tokenizer import (
        from_sentencepiece,
        from_tiktoken,
        from_tokenizer_json,
        is_sentencepiece,
    )

    if path.suffix == ".json":
        return from_tokenizer_json(path)
    return from_sentencepiece(path) if is_sentencepiece(path) else from_tiktoken(path)
