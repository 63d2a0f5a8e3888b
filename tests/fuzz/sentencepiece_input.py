"""SentencePiece's tokenizer.model: a protocol buffer put together field by field."""

import functools
import struct
from dataclasses import dataclass, field
from random import Random

from tests.fuzz.folder_input import TENSORS, FolderInput, config, shard, tokenizer_config
from tests.fuzz.values import FLOATS, INTEGERS, integer, patch, word

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
_LETTERS = ("a", "b", "c", "\u2581", "\u2581a", "ab", "abc", "\u2581ab", "\u00e9", "\u4e2d")
PIECES = (
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    ("<x>", 0.0, USER),
    *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
    *((text, -float(at), NORMAL) for at, text in enumerate(_LETTERS)),
)


def varint(value: int) -> bytes:
    """A number, seven bits a byte; a negative one in ten bytes."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def entry(number: int, wire: int, value: bytes) -> bytes:
    """One field, its length in front where it has one."""
    head = varint(number << 3 | wire)
    return head + varint(len(value)) + value if wire == 2 else head + value


@dataclass
class Piece:
    """One piece; `extra` goes behind its fields."""

    text: bytes
    score: float
    kind: int
    extra: bytes = b""

    def to_bytes(self) -> bytes:
        return piece_bytes(self.text, self.score, self.kind, self.extra)


@functools.lru_cache(4096)
def piece_bytes(text: bytes, score: float, kind: int, extra: bytes) -> bytes:
    """A piece as a field of the model."""
    number = struct.pack("<f", score) if abs(score) < 3e38 else b"\0\0\x80\x7f"
    if score != score:
        number = b"\0\0\xc0\x7f"
    fields = entry(1, 2, text), entry(2, 5, number), entry(3, 0, varint(kind)), extra
    return entry(1, 2, b"".join(fields))


@dataclass
class SentencePieceInput(FolderInput):
    """A folder whose tokenizer is a SentencePiece model."""

    pieces: list[Piece] = field(default_factory=list)
    trainer: list[bytes] = field(default_factory=list)
    normalizer: list[bytes] = field(default_factory=list)
    rest: list[bytes] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        fields = [piece.to_bytes() for piece in self.pieces]
        fields += [entry(2, 2, b"".join(self.trainer)), entry(3, 2, b"".join(self.normalizer))]
        return b"".join([*fields, *self.rest])

    def mutate(self, dice: Random) -> None:
        what = dice.randrange(10)
        if what < 5 and self.pieces:
            _change_piece(self, dice)
        elif what == 5:
            where = dice.choice((self.trainer, self.normalizer, self.rest))
            where.append(odd_field(dice))
        elif what == 6:
            where = dice.choice((self.trainer, self.normalizer))
            if where:
                del where[dice.randrange(len(where))]
        elif what == 7:
            self.trainer.append(entry(3, 0, varint(dice.choice((1, 3, 4, 2, 99)))))
        elif what == 8 and dice.random() < 0.1:
            many = dice.choice((300, 3000))
            self.pieces += [
                Piece(chr(0x4E00 + at).encode() * (at % 5 + 1), -at, NORMAL) for at in range(many)
            ]
        else:
            self.patches.setdefault("tokenizer.model", []).append(patch(dice))
        self.texts["tokenizer.model"] = self.to_bytes()


def odd_field(dice: Random) -> bytes:
    """A field that is known or not, of any wire type, whose length may lie."""
    number = dice.choice((1, 2, 3, 4, 5, 24, 35, 45, 46, 47, 48, 1 << 28, 0))
    wire = dice.randrange(8)
    values = (
        b"",
        b"\0",
        b"\1",
        b"\xff" * 10,
        b"\xff" * 11,
        b"\x80" * 5000,
        varint(dice.choice(INTEGERS)),
        word(dice).encode("utf-8", "surrogatepass"),
        bytes(100),
        entry(1, 2, b"x" * 100),
    )
    if dice.random() < 0.2:
        return varint(number << 3 | 2) + varint(integer(dice)) + b"abc"
    return entry(number, wire, dice.choice(values))


def _change_piece(made: SentencePieceInput, dice: Random) -> None:
    at = dice.randrange(len(made.pieces))
    if dice.random() < 0.5:  # the letters and control tokens, where more depends on it
        at = dice.choice((*range(4), *range(260, len(made.pieces)))) % len(made.pieces)
    piece = made.pieces[at]
    what = dice.randrange(8)
    if what == 0:
        text = dice.choice((word(dice), "\u2581" * 20, "a" * 512, "a" * 513, "<0x41>", "b" * 5000))
        piece.text = text.encode("utf-8", "surrogatepass")
    elif what == 1:
        piece.text = dice.choice((b"", b"\xff\xfe", b"\0", dice.choice(made.pieces).text))
    elif what == 2:
        piece.score = dice.choice((*FLOATS, dice.choice(made.pieces).score))
    elif what == 3:
        piece.kind = dice.choice((0, 1, 2, 3, 4, 5, 6, 7, -1, 1 << 40))
    elif what == 4:
        piece.extra += odd_field(dice)
    elif what == 5:
        del made.pieces[at]
    elif what == 6:
        made.pieces.insert(at, dice.choice(made.pieces))
    else:  # all scores alike: the slow way of merging
        for other in made.pieces:
            other.score = 0.0


def sentencepiece_folder() -> FolderInput:
    """A valid folder whose tokenizer is a SentencePiece model."""
    own = {**tokenizer_config(), "bos_token": None, "eos_token": None}
    made = SentencePieceInput(
        (),
        {"config.json": {**config(), "vocab_size": 300}, "tokenizer_config.json": own},
        {"model.safetensors": shard([*TENSORS], "BF16", 300)},
        pieces=[Piece(text.encode(), score, kind) for text, score, kind in PIECES],
        trainer=[entry(3, 0, varint(2)), entry(35, 0, varint(1))],
        normalizer=[entry(1, 2, b"identity"), entry(3, 0, varint(1))],
    )
    made.texts["tokenizer.model"] = made.to_bytes()
    return made
