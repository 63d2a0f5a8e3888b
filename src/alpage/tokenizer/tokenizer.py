"""Text to token ids and back, for byte-level BPE and SentencePiece-style vocabularies.

The merging itself is done by the Rust library `tokenizers`. Special tokens are kept out of its
vocabulary, so no text can become one unless the caller asks for it with `special=True`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from alpage.core.errors import InputError, UsageError
from alpage.tokenizer.bytelevel_core import ByteLevelCore
from alpage.tokenizer.matcher import TokenMatcher
from alpage.tokenizer.pieces import PieceCore
from alpage.tokenizer.pretokenize import PreTokenizer
from alpage.tokenizer.spaces import Scope, SpaceRule
from alpage.tokenizer.vocabulary import Vocabulary

_ESCAPED = re.compile("([\udc80-\udcff]+)")


class Tokenizer:
    """Encodes and decodes; immutable after construction and safe to share between threads.

    `vocab_size`: ids are below it. `bos_id`, `eos_id`: begin and end of text, where the file
    names them. `add_bos`: the model expects `bos_id` first. `special_ids`: text of every control
    token to its id. `stop_ids`: ids after which an answer is over. `missing_bytes`: bytes that
    the vocabulary cannot express; they are left out when text is encoded, as the reference
    tokenizers do (SmolLM2 lacks some control characters and bytes of unassigned planes). Without
    them, `decode_bytes(encode(data)) == data` for all data, in a SentencePiece vocabulary as far as
    its rule for spaces keeps them. `vocabulary`, `rule`, `ignore_merges`: what it was made of.
    """

    def __init__(
        self, vocabulary: Vocabulary, rule: PreTokenizer | SpaceRule, ignore_merges: bool
    ) -> None:
        """Use `from_gguf`, `from_tokenizer_json` and so on to make one from a file."""
        pieces = vocabulary.pieces
        self.vocabulary = vocabulary
        self.rule = rule
        self.ignore_merges = ignore_merges
        self.vocab_size = len(pieces)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.add_bos = vocabulary.add_bos
        self.stop_ids = vocabulary.stop_ids
        self.special_ids: Mapping[str, int] = vocabulary.texts(vocabulary.special)
        self.core: ByteLevelCore | PieceCore
        self._spaces = rule if isinstance(rule, SpaceRule) else None
        self._plain = vocabulary.special
        if isinstance(rule, SpaceRule):
            self.core = PieceCore(vocabulary, rule, ignore_merges)
        else:
            self.core = ByteLevelCore(vocabulary, rule, ignore_merges)
            self._plain |= vocabulary.added
        self._pieces = pieces
        self._special = vocabulary.special
        self._bytes: list[bytes | None] = [None] * len(pieces)
        for token, data in vocabulary.raw_bytes.items():
            self._bytes[token] = data
        self._byte_ids = self.core.byte_ids
        self.missing_bytes = frozenset(range(256)) - self._byte_ids.keys()
        self._whole = isinstance(rule, SpaceRule) and rule.scope is Scope.TEXTS
        added = vocabulary.texts(vocabulary.added)
        self._added = TokenMatcher(added) if added else None
        self._marked = TokenMatcher({**({} if self._whole else added), **self.special_ids})

    def encode(
        self, text: str | bytes, *, special: bool = False, add_bos: bool = False
    ) -> list[int]:
        """Token ids of `text`.

        With `special`, texts of control tokens such as `<|im_end|>` become those tokens; never
        do that with text from users. Bytes need not be valid UTF-8: valid stretches are encoded
        as text, every other byte as its own token. Surrogate pairs in a `str` are joined, lone
        surrogates become U+FFFD. `UsageError` when `add_bos` is asked of a vocabulary without it.
        """
        ids = self._first(add_bos)
        fresh = True
        for part in _valid_parts(text) if isinstance(text, bytes) else (_joined(text),):
            if isinstance(part, bytes):
                ids.extend(self._byte_ids[byte] for byte in part if byte in self._byte_ids)
                fresh = False
            elif special:
                fresh = self._encode_mixed(self._marked.split(part), ids, fresh)
            else:
                fresh = self._encode_text(part, ids, fresh)
        return ids

    def encode_inside(self, text: str) -> list[int]:
        """Token ids of `text` in the middle of another: no space goes in front of it."""
        ids: list[int] = []
        self._encode_text(_joined(text), ids, False)
        return ids

    def encode_segments(
        self, segments: Iterable[tuple[str, bool]], *, add_bos: bool = False
    ) -> list[int]:
        """Token ids of a rendered prompt made of (text, special) segments.

        Special tokens are recognised inside segments marked special only, also not across two
        segments; all other text is encoded as if the segments were one string, as the model saw
        it in training.
        """
        ids = self._first(add_bos)
        fresh = True
        pending: list[str] = []
        for text, special in segments:
            for part in self._marked.split(_joined(text)) if special else (text,):
                if isinstance(part, str):
                    pending.append(part)
                    continue
                fresh = self._encode_text(_joined("".join(pending)), ids, fresh)
                pending.clear()
                fresh = self._encode_mixed((part,), ids, fresh)
        self._encode_text(_joined("".join(pending)), ids, fresh)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD. `InputError` for a foreign id."""
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = True) -> bytes:
        """Bytes of `ids`, without control tokens unless `skip_special` is False.

        Of a SentencePiece vocabulary, without the space that encoding put in front.
        """
        skipped = self._special if skip_special else frozenset()
        shown = iter([token for token in ids if token not in skipped])
        found: list[bytes] = []
        first = self.strips
        while first and (token := next(shown, None)) is not None:
            data, first = self.first_bytes(token)
            found.append(data)
        found.extend(map(self.token_bytes, shown))
        return b"".join(found)

    @property
    def strips(self) -> bool:
        """Whether a space at the beginning of decoded text is left out."""
        return self._spaces is not None and self._spaces.strip

    def first_bytes(self, token: int) -> tuple[bytes, bool]:
        """Bytes of the first token of a text where `strips`, and whether the next is first still.

        One leading space is left out: not of a byte token, nor of a shown control token.
        """
        data = self.token_bytes(token)
        if token in self.vocabulary.raw_bytes or token in self._special:
            return data, False
        if not data.startswith(b" "):
            return data, not data
        return data[1:], data == b" " and self._spaces is not None and self._spaces.collapse

    def begins_text(self, before: int | None) -> bool:
        """Whether a text that follows the token `before` got a space in front when encoded."""
        if before is None:
            return True
        if self._spaces is None or self._spaces.scope is Scope.START:
            return False
        cut = self._spaces.scope is Scope.PARTS and before in self.vocabulary.added
        return cut or self.is_special(before)

    def token_bytes(self, id: int) -> bytes:  # noqa: A002 - the public name
        """Bytes that one token stands for; of a control token, its text.

        `InputError` for an id outside the vocabulary.
        """
        if not 0 <= id < self.vocab_size:
            raise InputError(f"token id {id} is outside the vocabulary of {self.vocab_size} tokens")
        data = self._bytes[id]
        if data is None:
            piece = self._pieces[id] or ""
            plain = id in self._plain
            data = piece.encode("utf-8", "replace") if plain else self.core.spell(piece)
            self._bytes[id] = data
        return data

    def is_special(self, id: int) -> bool:  # noqa: A002 - the public name
        """Whether `id` is a control token, which text alone never becomes."""
        return id in self._special

    def _first(self, add_bos: bool) -> list[int]:
        if not add_bos:
            return []
        if self.bos_id is None:
            raise UsageError("this vocabulary names no beginning-of-text token to add")
        return [self.bos_id]

    def _encode_mixed(self, parts: Iterable[str | int], ids: list[int], fresh: bool) -> bool:
        """Append texts and tokens; says whether a text behind them is at a fresh start."""
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                fresh = self._spaces is not None and self._spaces.scope is not Scope.START
            elif self._whole:
                fresh = self._encode_text(part, ids, fresh)
            else:
                self.core.encode(part, ids, fresh)
                fresh = False
        return fresh

    def _encode_text(self, text: str, ids: list[int], fresh: bool) -> bool:
        """The same for text without special tokens: it may hold added ones."""
        if not text:
            return fresh
        if self._added is None:
            self.core.encode(text, ids, fresh)
        elif not self._whole:
            return self._encode_mixed(self._added.split(text), ids, fresh)
        elif isinstance(self.core, PieceCore):
            for part in self._added.split(self.core.rule.normalise(text, fresh)):
                if isinstance(part, int):
                    ids.append(part)
                else:
                    self.core.encode_normal(part, ids)
        return False


def _joined(text: str) -> str:
    """`text` without surrogates: pairs joined, lone ones replaced (as tiktoken does)."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _valid_parts(data: bytes) -> Iterator[str | bytes]:
    """Cut bytes into stretches of valid UTF-8, as text, and the bytes between them."""
    for part in _ESCAPED.split(data.decode("utf-8", "surrogateescape")):
        if not part:
            continue
        if "\udc80" <= part[0] <= "\udcff":
            yield part.encode("utf-8", "surrogateescape")
        else:
            yield part
