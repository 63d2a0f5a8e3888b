"""Where SentencePiece-style tokenizers put spaces: U+2581 for each, and one more in front.

The programs of this kind agree on the merging, but not on the space in front of a text. A
`SpaceRule` says which of them a file means:

- sentencepiece normalises a whole text and finds the added ("user-defined") tokens in the result;
- llama.cpp, and `tokenizer.json` with the normaliser `Prepend`, cut the text at special and added
  tokens first, and put a space in front of every part;
- `tokenizer.json` with the pre-tokenizer `Metaspace` does so only where no space is yet, and with
  `prepend_scheme` "first" only at the beginning of everything.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

SPACE = "\u2581"
"""What stands for a space in the pieces."""

_RUN = re.compile("  +")


class Prefix(StrEnum):
    """Which texts get a space in front."""

    NEVER = "never"
    ALWAYS = "always"
    MISSING = "missing"
    """Those that do not begin with one."""


class Scope(StrEnum):
    """What counts as a text for `Prefix`."""

    TEXTS = "texts"
    """All between two special tokens, added tokens included (sentencepiece)."""
    PARTS = "parts"
    """Every part between two special or added tokens (llama.cpp, `Prepend`)."""
    START = "start"
    """Only the beginning of everything that is encoded."""


@dataclass(frozen=True, slots=True)
class SpaceRule:
    """How text becomes pieces and pieces text, as far as spaces go.

    `strip`: one leading space of a decoded text is not shown. `split`: no piece has a space but
    in front. `collapse`: runs of spaces become one, and none are left at both ends.
    """

    prefix: Prefix = Prefix.ALWAYS
    scope: Scope = Scope.PARTS
    strip: bool = True
    split: bool = False
    collapse: bool = False

    def normalise(self, text: str, fresh: bool) -> str:
        """Spell `text` with U+2581; `fresh`: it is at a place where a space goes in front."""
        if self.collapse:
            text = _RUN.sub(" ", text)
            text = text.lstrip(" ") if fresh else text
        if not text:
            return ""
        text = text.replace(" ", SPACE)
        begun = self.prefix is Prefix.MISSING and text.startswith(SPACE)
        if fresh and self.prefix is not Prefix.NEVER and not begun:
            text = SPACE + text
        return text.rstrip(SPACE) if self.collapse else text
