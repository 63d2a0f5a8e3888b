"""A case is a chain of numbers: each is the seed of one round of mutations of a small valid input.

So every case can be built again from its name alone (`gguf:12.7.3` is target `gguf`, rounds 12, 7
and 3), an interesting case can be mutated further by adding a round, and a failing one becomes
smaller by leaving rounds out.
"""

from pathlib import Path
from random import Random
from typing import Protocol

Chain = tuple[int, ...]


class Input(Protocol):
    """One input under construction: a model file or folder, a template."""

    def mutate(self, dice: Random) -> None:
        """Change something."""

    def write(self, folder: Path) -> Path:
        """Put it into the empty `folder`; returns what is to be opened."""


class Target(Protocol):
    """A kind of input, and what the product is asked to do with it."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in a case's name."""

    def start(self, dice: Random) -> Input:
        """A small valid input."""

    def run(self, path: Path, dice: Random) -> str:
        """Use the written input to the end; returns a word about what it turned out to be."""


def build(target: Target, chain: Chain) -> Input:
    """The input that `chain` names. An empty chain is a valid one."""
    made = target.start(Random(f"{target.name} {chain[:1]}"))
    for number in chain:
        dice = Random(number)
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            made.mutate(dice)
    return made


def text_of(target: str, chain: Chain) -> str:
    """The name of a case."""
    return f"{target}:{'.'.join(map(str, chain))}"


def parse(text: str) -> tuple[str, Chain]:
    """The target's name and the chain of a case's name."""
    target, _, numbers = text.partition(":")
    return target, tuple(int(number) for number in numbers.split(".") if number)
