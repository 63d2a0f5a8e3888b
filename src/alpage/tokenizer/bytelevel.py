"""The byte-level alphabet of GPT-2: one printable character for each of the 256 bytes.

Vocabularies of the family are written in it, so that a space is `Ġ` and a line feed `Ċ`.
"""

_PRINTABLE = frozenset((*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)))
_SHIFTED = {byte: 256 + i for i, byte in enumerate(b for b in range(256) if b not in _PRINTABLE)}

BYTE_TO_CHAR: tuple[str, ...] = tuple(chr(_SHIFTED.get(byte, byte)) for byte in range(256))
"""Character of each byte: itself where printable in Latin-1, else U+0100 and up in order."""

_FROM_LATIN = dict(enumerate(BYTE_TO_CHAR))
_TO_LATIN = {ord(char): byte for byte, char in enumerate(BYTE_TO_CHAR)}
# Latin-1 characters that are not in the alphabet must not pass as the byte of their number.
_TO_LATIN.update({byte: 0xFFFD for byte in range(256) if byte not in _PRINTABLE})


def piece_of(data: bytes) -> str:
    """Spell bytes in the alphabet."""
    return data.decode("latin-1").translate(_FROM_LATIN)


def bytes_of(piece: str) -> bytes:
    """Bytes that a piece spells; a piece with a foreign character stands for its own UTF-8.

    The second case is how the Hugging Face decoder treats added tokens in plain text.
    """
    try:
        return piece.translate(_TO_LATIN).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode("utf-8", "replace")
