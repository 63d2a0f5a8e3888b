"""What one rendering may cost: steps, time, and characters; and how large a value is.

Templates come out of model files, so they are hostile programs. Each loop round, call, filter,
test and operator of a template passes through `Budget.step`, and each value that it makes through
`Budget.admit`, so that neither time nor memory can run away between two checks.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from jinja2 import Undefined
from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Namespace

from alpage.chat.marked import Marked

_SCALAR = 8
_DEPTH = 64
_INTEGER_BITS = 256


class Refused(Exception):  # noqa: N818  (internal: becomes a TemplateError with the cause)
    """The template did something that it may not do; the message is the cause."""


class SizedList(list[Any]):
    """A list that knows the size of its whole tree, so that doubling a list is seen at once."""

    __slots__ = ("depth", "size")
    size: int
    depth: int


class SizedDict(dict[Any, Any]):
    """A dictionary that knows the size of its whole tree."""

    __slots__ = ("depth", "size")
    size: int
    depth: int


class SizedTuple(tuple[Any, ...]):
    """A tuple that knows the size of its whole tree."""

    size: int
    depth: int


class Space(Namespace):
    """Jinja's `namespace()`; never shows its contents, which may contain itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


class Budget:
    """Limits of one rendering, derived from the size of what the caller gave (in characters)."""

    def __init__(self, given: int, seconds: float = 1.0) -> None:
        self.seconds = seconds + given / 4e6
        self.value_limit = 1_000_000 + 8 * given
        self._steps = self._steps_left = 1_000_000 + given
        self._chars_left = min(32_000_000 + 256 * given, 1 << 30)
        # Processor time of this thread: a busy machine does not make an honest template fail.
        self._deadline = time.thread_time() + self.seconds
        self._calls = 0

    def step(self, value: Any = None) -> Any:
        """Count one step of the program and give `value` back."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise Refused(f"it takes more than {self._steps:,} steps")
        if time.thread_time() > self._deadline:
            raise Refused(f"it computes for more than {self.seconds:.3g} s")
        return value

    def enter(self) -> None:
        """Note the start of a macro or recursive loop; `leave` notes its end."""
        self._calls += 1
        if self._calls > 50:
            raise Refused("its macros call each other more than 50 deep")

    def leave(self) -> None:
        """Note the end of a macro or recursive loop."""
        self._calls -= 1

    def check(self, size: int) -> None:
        """Refuse a single value of more than `value_limit` characters, before it is made."""
        if size > self.value_limit:
            raise Refused(f"it makes a value of more than {self.value_limit:,} characters")

    def spend(self, size: int) -> None:
        """Count `size` characters of new memory."""
        self.check(size)
        self._chars_left -= size
        if self._chars_left < 0:
            raise Refused("it writes without end")

    def admit(self, value: Any) -> Any:
        """Count a value that the template made; containers come back knowing their size."""
        self.step()
        if isinstance(value, str):
            self.spend(len(value) + (4 * len(value.spans) if isinstance(value, Marked) else 0))
        elif isinstance(value, int):
            if value.bit_length() > _INTEGER_BITS:
                raise Refused(f"it makes an integer of more than {_INTEGER_BITS} bits")
        elif isinstance(value, SizedList | SizedDict | SizedTuple):
            pass
        elif isinstance(value, dict):
            return self._sized(SizedDict(value), (*value.keys(), *value.values()))
        elif isinstance(value, tuple):
            return self._sized(SizedTuple(value), value)
        elif isinstance(value, list):
            return self._sized(SizedList(value), value)
        elif isinstance(value, Iterator | type({}.keys()) | type({}.values()) | type({}.items())):
            items: SizedList = SizedList(map(self.step, value))
            return self._sized(items, items)
        return value

    def _sized(self, value: Any, items: Iterable[Any]) -> Any:
        size, depth = self.measure(items)
        if depth > _DEPTH:
            raise Refused(f"it nests values more than {_DEPTH} deep")
        self.spend(_SCALAR * len(value))
        value.size, value.depth = size, depth
        return value

    def measure(self, items: Iterable[Any]) -> tuple[int, int]:
        """Size in characters and depth of a container of `items`; shared parts count each time."""
        size, deepest = _SCALAR, 0
        for item in items:
            more, depth = self._measure_one(item)
            size += more
            deepest = max(deepest, depth)
            self.check(size)
        return size, deepest + 1

    def _measure_one(self, item: Any) -> tuple[int, int]:
        if isinstance(item, str):
            return len(item) + _SCALAR, 0
        if isinstance(item, SizedList | SizedDict | SizedTuple):
            return item.size + _SCALAR, item.depth
        if isinstance(item, dict):
            return self.measure((*item.keys(), *item.values()))
        if isinstance(item, list | tuple):
            return self.measure(item)
        if item is None or isinstance(
            item, int | float | Undefined | Namespace | Macro | LoopContext | range
        ):
            return _SCALAR, 0
        raise Refused(f"it may not keep a {type(item).__name__}")

    def text_of(self, value: Any) -> str:
        """The text that `{{ value }}` writes, in trusted spans where it is Marked."""
        if isinstance(value, str):
            return value
        if value is None or isinstance(value, int | float | Undefined | Namespace | Macro | range):
            return str(value)
        if isinstance(value, list | tuple | dict):
            self._measure_one(value)
            text = repr(value)
            self.check(len(text))
            return text
        raise Refused(f"it may not write a {type(value).__name__}")
