"""Arrays of strings in a GGUF header: a vocabulary has 100,000, and everybody waits for them.

Format: for each string its length (8 bytes, little-endian), then UTF-8.
"""

import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEPARATOR = 0x1E
"""ASCII's record separator, which stands between the strings while they are decoded together."""


def decode_together(
    data: mmap.mmap, start: int, count: int, end: int
) -> tuple[list[str], int] | None:
    """`count` strings from `start` on, and where they end; None unless they are usual ones.

    Usual strings have less than 256 bytes each, none of them zero or `SEPARATOR`, and nothing is
    wrong with them, or reaches beyond `end`. Whoever gets None reads them one by one, and finds
    what is wrong if anything is.
    """
    places: list[int] = []
    position = start
    note = places.append
    try:
        for _ in range(count):
            note(position)
            position += 8 + data[position]  # the low byte of the length; the others are seen below
    except IndexError:  # the file ends here
        return None
    if position > end:
        return None
    raw = np.frombuffer(data[start:position], np.uint8).copy()
    first = np.array(places, np.int64) - start
    if np.any(_numbers(raw)[first] > 255):
        return None
    raw[first] = SEPARATOR
    others = int(np.count_nonzero(raw == SEPARATOR)) - count  # than those of the lengths
    zeros = int(np.count_nonzero(raw == 0)) - 7 * count
    if others or zeros:
        return None
    try:
        # Separators are ASCII, so the whole is UTF-8 if and only if each string is.
        text = raw[raw != 0].tobytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text.split(chr(SEPARATOR))[1:], position


def encode_together(texts: Sequence[str]) -> bytes | None:
    """An array as it stands in the file, behind its count; None if a text has `SEPARATOR`.

    Raises what Python does for what is no text, or cannot be UTF-8.
    """
    count = len(texts)
    content = np.frombuffer(chr(SEPARATOR).join(texts).encode("utf-8"), np.uint8)
    separators = np.flatnonzero(content == SEPARATOR)
    if not count or len(separators) != count - 1:
        return None
    starts = np.concatenate(([0], separators + 1))
    lengths = np.concatenate((separators, [len(content)])) - starts
    # Each string moves on by the lengths before it and its own, less the separators before it.
    heads = starts + 7 * np.arange(count)
    raw = np.zeros(len(content) + 7 * count + 1, np.uint8)
    is_text = np.ones(len(raw), np.uint8)
    _numbers(raw)[heads] = lengths
    _numbers(is_text)[heads] = 0
    raw[is_text.view(np.bool_)] = content[content != SEPARATOR]
    return raw.tobytes()


def _numbers(raw: NDArray[np.uint8]) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """A view of `raw` that has a number of 8 bytes at every place; they overlap."""
    return np.ndarray((max(len(raw) - 7, 0),), "<u8", raw, strides=(1,))
