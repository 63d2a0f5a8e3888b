"""Tokens to text while they arrive, without ever showing half a character."""

import codecs
from collections.abc import Sequence

from alpage.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Turns one token after another into text.

    The pieces joined, with the last `flush`, equal `Tokenizer.decode` of all ids. A character
    whose bytes come in several tokens appears with the last of them. One decoder serves one
    sequence and one thread.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, skip_special: bool = True, after: Sequence[int] = ()
    ) -> None:
        """`skip_special`: leave out control tokens; else they appear as their text.

        `after`: ids that the text continues. Where they end in text, a SentencePiece vocabulary's
        first space belongs to what follows and is shown; at the beginning it is left out.
        """
        self._tokenizer = tokenizer
        self._first = tokenizer.strips and tokenizer.begins_text(after[-1] if after else None)
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:  # noqa: A002 - the public name
        """Text that `id` completes, possibly empty. `InputError` for an id outside."""
        if self._skip_special and self._tokenizer.is_special(id):
            return ""
        if not self._first:
            return self._utf8.decode(self._tokenizer.token_bytes(id))
        data, self._first = self._tokenizer.first_bytes(id)
        return self._utf8.decode(data)

    def flush(self) -> str:
        """End the text: U+FFFD if a character was left unfinished. The decoder is new again."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._first = self._tokenizer.strips
        return text
