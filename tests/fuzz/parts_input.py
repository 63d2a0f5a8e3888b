"""GGUF models in several files, `NAME-00001-of-0000N.gguf`, and parts that do not fit together."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.gguf_input import GgufInput, Shape, number_of, small_model
from tests.fuzz.values import word
from tests.weights.gguf_files import I32, STRING, GgufFile

from alpage.weights.tensor import TensorType

U16 = 2


@dataclass
class PartsInput:
    """The parts, their file names, and which of them is opened."""

    parts: list[GgufInput]
    names: list[str]
    opened: int

    def mutate(self, dice: Random) -> None:
        at = dice.randrange(len(self.parts))
        file = self.parts[at].file
        what = dice.randrange(10)
        if what < 3:
            self.parts[at].mutate(dice)
        elif what == 3:
            key, kind = dice.choice((("no", U16), ("count", U16), ("tensors.count", I32)))
            file.set(f"split.{key}", kind, number_of(kind, dice))
        elif what == 4:
            file.set(
                f"split.{dice.choice(('no', 'count', 'tensors.count'))}",
                STRING,
                word(dice).encode("utf-8", "replace"),
            )
        elif what == 5:
            file.drop(f"split.{dice.choice(('no', 'count', 'tensors.count'))}")
        elif what == 6:
            count = dice.choice((0, 1, len(self.parts), 2, 99999))
            number = dice.choice((0, 1, at + 1, 2, 99999))
            self.names[at] = dice.choice(
                (f"m-{number:05}-of-{count:05}.gguf", "m.gguf", "\u0661-0000\u0661-of-00002.gguf")
            )
        elif what == 7:
            other = self.parts[dice.randrange(len(self.parts))].file
            if other.tensors:
                file.tensors.append(other.tensors[dice.randrange(len(other.tensors))])
        elif what == 8 and len(self.parts) > 1:
            del self.parts[at], self.names[at]
        else:
            self.opened = dice.randrange(9)

    def write(self, folder: Path) -> Path:
        paths = [folder / name for name in self.names]
        for part, path in zip(self.parts, paths, strict=True):
            part.write(path)
        return folder if self.opened == 8 else paths[self.opened % len(paths)]


def small_parts(dice: Random) -> PartsInput:
    """A valid model in two or three parts."""
    kinds = [kind for kind in TensorType if kind.block_size <= 32]
    whole = small_model(dice, Shape(), kinds)
    count = dice.choice((2, 3))
    total = len(whole.tensors)
    parts = []
    for number in range(count):
        file = whole if number == 0 else GgufFile()
        file.set("split.no", U16, number).set("split.count", U16, count)
        file.set("split.tensors.count", I32, total)
        parts.append(GgufInput(file, Shape(), kinds))
    tensors = whole.tensors
    for number, part in enumerate(parts):
        part.file.tensors = tensors[number::count]
    names = [f"m-{number + 1:05}-of-{count:05}.gguf" for number in range(count)]
    return PartsInput(parts, names, dice.randrange(count))
