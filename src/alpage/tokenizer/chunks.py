"""Long texts in parts, so that encoding one takes bounded memory."""

import re
from collections.abc import Iterator

SIZE = 1 << 18
"""Longer texts are encoded in parts of about this many characters."""


def chunks(text: str, cut: re.Pattern[str]) -> Iterator[str]:
    """Cut `text` behind matches of `cut`, where every part gives the same ids as in the whole."""
    begin = 0
    while len(text) - begin > SIZE and (found := cut.search(text, begin + SIZE)):
        yield text[begin : found.end()]
        begin = found.end()
    if begin < len(text):
        yield text[begin:]
