"""Tokens to text while they arrive, without ever showing half a character."""

import codecs

from alpage.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Turns one token after another into text.

    The pieces joined, with the last `flush`, equal `Tokenizer.decode` of all ids. A character
    whose bytes come in several tokens appears with the last of them. One decoder serves one
    sequence and one thread.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        """`skip_special`: leave out control tokens; else they appear as their text."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:  # noqa: A002 - the public name
        """Text that `id` completes, possibly empty. `InputError` for an id outside."""
        if self._skip_special and self._tokenizer.is_special(id):
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """End the text: U+FFFD if a character was left unfinished. The decoder is new again."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text
