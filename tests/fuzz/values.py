"""Odd values, odd texts and odd JSON: what mutators of every format put where a value belongs."""

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

INTEGERS = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    127,
    128,
    255,
    256,
    257,
    1000,
    65535,
    65536,
    (1 << 24) + 1,
    (1 << 30) - 1,
    1 << 30,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 53) + 1,
    (1 << 62),
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 32,
    (1 << 64) - 1,
)
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e-5,
    1e-38,
    1e-45,
    1e-300,
    5e-324,
    1e30,
    1e38,
    3.5e38,
    1e300,
    float("inf"),
    float("-inf"),
    float("nan"),
    10_000.0,
    500_000.0,
    8.0,
)
WORDS = (
    "",
    " ",
    "a",
    "0",
    "-1",
    "llama",
    "gpt2",
    "default",
    "none",
    "linear",
    "yarn",
    "BF16",
    "I8",
    "../../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "C:\\x",
    "a/b",
    "a\0b",
    "\x1b[31mred\x07",
    "\u202eevil",
    "é" * 100,
    "\ud800",
    "\U0010ffff",
    "%s%n{}",
    "{{ 1 }}",
    "{0.__class__}",
    "__proto__",
    "<|im_end|>",
    "<|eot_id|>",
    "x" * 300,
    "y" * 5000,
    "<0x41>",
    "<0xZZ>",
    "Ġ",
    "\u2581",
)


class Raw(str):
    """JSON text that is written as it is."""


RAW_JSON = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-0",
    "1e-999",
    "0x10",
    "9" * 400,
    "9" * 4000,
    "9" * 5000,
    "[" * 60 + "]" * 60,
    "[" * 5000,
    '{"a":' * 3000,
    '"\\ud800"',
    '"\\u0000"',
    "tru",
    "",
    ",",
    '{"a":1,"a":2}',
    "[1,]",
    '"unclosed',
    "1.5",
    "1.0",
    "[[],[[]]]",
    "{}",
    "null",
    "true",
    '"1"',
)


def integer(dice: Random) -> int:
    """A number that sits on a border, near one, or anywhere."""
    value = dice.choice(INTEGERS)
    kind = dice.randrange(8)
    if kind == 0:
        return -value
    if kind == 1:
        return value + dice.choice((-1, 1))
    return dice.randrange(1 << dice.choice((3, 6, 8, 16, 32, 63))) if kind == 2 else value


def word(dice: Random) -> str:
    """A text that is odd in one way."""
    if dice.random() < 0.2:
        return "".join(chr(dice.randrange(1, 0x300)) for _ in range(dice.randrange(12)))
    return dice.choice(WORDS)


def json_value(dice: Random) -> Any:
    """A scalar, a small container, or text that is no JSON."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: integer(dice),
        lambda: dice.choice(FLOATS),
        lambda: word(dice),
        lambda: dice.choice((None, True, False, [], {}, "")),
        lambda: [integer(dice) for _ in range(dice.randrange(5))],
        lambda: [word(dice) for _ in range(dice.randrange(4))],
        lambda: {word(dice): integer(dice)},
        lambda: Raw(dice.choice(RAW_JSON)),
    )
    return dice.choice(makers)()


def dump(value: Any) -> str:
    """JSON of `value`; `Raw` texts go in as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


def mutate_json(dice: Random, document: Any) -> None:
    """Change one place of a tree of dictionaries and lists."""
    node: Any = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = dice.choice(keys)
        child = node[key]
        if isinstance(child, dict | list) and child and dice.random() < 0.75:
            node = child
            continue
        _change(dice, node, key)
        return
    _grow(dice, node)


def _change(dice: Random, node: Any, key: Any) -> None:
    value = node[key]
    kind = dice.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1:
        _grow(dice, node)
    elif kind == 2 and isinstance(node, dict):  # the same key twice
        node[key] = Raw(f"{dump(value)},{json.dumps(key)}:{dump(json_value(dice))}")
    elif kind == 3 and isinstance(node, dict):
        node[word(dice)] = node.pop(key)
    elif kind == 4:  # the value of a neighbour
        node[key] = node[dice.choice(list(node) if isinstance(node, dict) else range(len(node)))]
    elif kind == 5 and type(value) is int:
        node[key] = value + dice.choice((-8, -1, 1, 8, 1 << 32))
    elif kind == 6 and type(value) is list and dice.random() < 0.1:
        node[key] = value * dice.choice((2, 100, 5000))
    else:
        node[key] = json_value(dice)


def _grow(dice: Random, node: Any) -> None:
    if isinstance(node, dict):
        node[word(dice)] = json_value(dice)
    else:
        node.insert(dice.randrange(len(node) + 1), json_value(dice))


Patch = tuple[str, float, int]
"""What is done to the bytes of a finished file: (what, where from 0 to 1, a number)."""


def patch(dice: Random, *, head: float = 1.0) -> Patch:
    """A change of bytes in the first `head` (0 to 1) of a file."""
    what = dice.choice(("byte", "byte", "bit", "cut", "long", "insert", "zero", "append", "u64"))
    return what, dice.random() * head, dice.getrandbits(32)


def patched(data: bytes, patches: list[Patch]) -> bytes:
    """`data` after the changes."""
    for what, place, number in patches:
        at = int(place * len(data))
        if what == "cut":
            data = data[:at]
        elif what == "append":
            data += bytes([number & 255]) * (number >> 8 & 1023)
        elif what == "insert":
            data = data[:at] + number.to_bytes(4, "little")[: number % 4 + 1] + data[at:]
        elif what == "zero":
            size = min(number % 64, len(data) - at)
            data = data[:at] + bytes(size) + data[at + size :]
        else:
            data = _overwritten(data, what, at, number)
    return data


def _overwritten(data: bytes, what: str, at: int, number: int) -> bytes:
    if what == "bit" and at < len(data):
        new = bytes([data[at] ^ 1 << number % 8])
    elif what == "long":
        new = struct.pack("<I", INTEGERS[number % len(INTEGERS)] & 0xFFFFFFFF)
    elif what == "u64":
        new = struct.pack("<Q", INTEGERS[number % len(INTEGERS)])
    else:
        new = bytes([number & 255])
    return data[:at] + new + data[at + len(new) :]
