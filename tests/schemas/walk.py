"""Answers without a model: a random token of those that the mask leaves, again and again."""

import json
import random
import re
from typing import Any

import numpy as np

from alpage.engine.grammar import Grammar, GrammarCompiler
from alpage.tokenizer import StreamDecoder, Tokenizer

_CLOSING = [
    *'"}],', '"}', '"]', '",', "}}", "]}", '"}}', "0", "1", "null", "true", "{}", "[]", '""', ' "',
    " {}", " []", " null", " 0", ":", ' ""',
]  # fmt: skip


class Walker:
    """Walks through constraints of one vocabulary."""

    def __init__(self, tokenizer: Tokenizer, compiler: GrammarCompiler) -> None:
        self._tokenizer = tokenizer
        self._compiler = compiler
        ids = (tokenizer.encode_inside(text) for text in _CLOSING)
        self._closing = np.array(sorted({found[0] for found in ids if len(found) == 1}))

    def walk(self, grammar: Grammar, seed: int, limit: int) -> str | None:
        """Text of a complete answer, None for one that was cut after `limit` tokens.

        The longer an answer is, the more it is drawn to its end.
        """
        chance = random.Random(seed)
        constraint = self._compiler.begin(grammar, None)
        decoder = StreamDecoder(self._tokenizer)
        text, length = "", 0
        while not constraint.ended and length < limit:
            taken = constraint.forced() or self._drawn(constraint, chance, length / limit)
            if not taken:
                break
            for token in taken:
                constraint.accept(token)
                text += decoder.push(token)
            length += len(taken)
        if constraint.ended or constraint.complete:
            return text + decoder.flush()
        return None

    def _drawn(self, constraint: Any, chance: random.Random, progress: float) -> list[int]:
        mask = constraint.allowed()
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        if constraint.complete and (not bits.any() or chance.random() < 0.3 + progress):
            return []
        closing = self._closing[bits[self._closing] > 0]
        if len(closing) and chance.random() < 0.3 + progress:
            return [int(chance.choice(closing))]
        return [int(chance.choice(np.flatnonzero(bits)))]


def grammar_of(schema: dict[str, Any]) -> Grammar:
    """The grammar as a program would ask for it: in JSON's text."""
    return Grammar.json_schema(json.dumps(schema))


_WHOLE = ("Unsatisfiable", "too complex", "patternProperty", "min/maxProperties", "bytes",
          "circular", "too large", "too many", "limit")  # fmt: skip


def refused_keyword(message: str) -> str:
    """The keyword that a refusal names; an AssertionError where it names none."""
    found = re.match(r'json_schema cannot be enforced: ((?:"[^"]+"(?:, )?)+)', message)
    if found:
        return found[1].replace('"', "")
    near = [kind for kind in _WHOLE if kind in message]
    assert near, message
    return f"the whole: {near[0]}"
