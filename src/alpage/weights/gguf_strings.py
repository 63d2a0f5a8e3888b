"""An array of strings out of a GGUF header: a vocabulary has 100,000, and everybody waits for them.

Format: for each string its length (8 bytes, little-endian), then UTF-8.
"""

import mmap

import numpy as np

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
    # Every place as a number of 8 bytes: a view, of which only the lengths are looked at.
    numbers: np.ndarray[tuple[int], np.dtype[np.uint64]] = np.ndarray(
        (max(len(raw) - 7, 0),), "<u8", raw, strides=(1,)
    )
    if np.any(numbers[first] > 255):
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
