"""Reader of the pickle inside a PyTorch checkpoint: a table of tensors, and nothing else.

A pickle is a program for a stack machine. This one knows only the instructions that put together
numbers, texts, tuples, lists and dictionaries; the few names that a table of weights refers to
stand for plain values here. Nothing is imported, nothing is called, and what it takes in memory is
bounded by the length of the program. Instructions: Python's `pickletools`.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.fields import clean
from alpage.weights.tensor import TensorType


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers of the checkpoint: file `key` of its data folder, `count` numbers."""

    type: TensorType
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: a shape laid over a storage; `offset` and `strides` count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """Something that the program refers to by name."""

    name: str


_MARK = object()
_STORAGES = {
    "torch.FloatStorage": TensorType.F32,
    "torch.HalfStorage": TensorType.F16,
    "torch.BFloat16Storage": TensorType.BF16,
}
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_KNOWN = {*_STORAGES, _DICT, _TENSOR, _PARAMETER}
_MAX_NUMBER_BYTES = 8
_MAX_STACK = 1 << 16
_MAX_CONTAINERS = 1 << 18
"""Tuples, lists and dictionaries of a whole program: about 7 a tensor."""
_CONTAINERS = {"empty_dict", "empty_list", "tuple", "tuple1", "tuple2", "tuple3", "call"}
_OPCODES = {
    0x80: "proto", 0x95: "frame", ord("c"): "name", 0x93: "stack_name", ord("("): "mark",
    ord(")"): "empty_tuple", ord("t"): "tuple", 0x85: "tuple1", 0x86: "tuple2", 0x87: "tuple3",
    ord("}"): "empty_dict", ord("]"): "empty_list", ord("a"): "append", ord("e"): "appends",
    ord("s"): "set_item", ord("u"): "set_items", ord("X"): "text4", 0x8C: "text1",
    ord("J"): "int4", ord("K"): "int1", ord("M"): "int2", 0x8A: "long1", ord("G"): "float8",
    0x88: "true", 0x89: "false", ord("N"): "none", ord("q"): "put1", ord("r"): "put4",
    0x94: "memoize", ord("h"): "get1", ord("j"): "get4", ord("R"): "call", ord("b"): "build",
    ord("Q"): "storage",
}  # fmt: skip
_STOP = ord(".")
_CONSTANTS = {"true": True, "false": False, "none": None, "empty_tuple": ()}
_INTEGERS = {"int4": "<i", "int1": "<B", "int2": "<H"}


def read_table(program: bytes, path: Path) -> dict[str, Any]:
    """The dictionary that `program`, from the file `path`, puts together.

    Tensors in it are `View`s. Raises `FormatError` where the program is damaged, and
    `UnsupportedError`, with the name, where it asks for anything but a table of weights.
    """
    machine = _Machine(program, path)
    try:
        result = machine.run()
    except (IndexError, struct.error, UnicodeDecodeError):
        machine.damaged("its table of tensors is cut short or makes no sense")
    if not isinstance(result, dict):
        raise FormatError(f"{path} holds a {type(result).__name__}, not a table of tensors")
    return result


class _Machine:
    def __init__(self, program: bytes, path: Path) -> None:
        self._program = program
        self._path = path
        self._position = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._containers = 0

    def damaged(self, what: str) -> NoReturn:
        raise FormatError(f"{self._path} is damaged: {what} (at byte {self._position:,})")

    def run(self) -> Any:
        while (code := self._take(1)[0]) != _STOP:
            operation = _OPCODES.get(code)
            if operation is None:
                raise UnsupportedError(
                    f"{self._path}: its table of tensors has pickle instruction 0x{code:02x}, "
                    "which a table of weights does not need; nothing of it was run"
                )
            self._containers += operation in _CONTAINERS
            if len(self._stack) > _MAX_STACK or self._containers > _MAX_CONTAINERS:
                self.damaged("its table of tensors is larger than that of any model")
            if operation in _CONSTANTS:
                self._stack.append(_CONSTANTS[operation])
            elif operation in _INTEGERS:
                self._stack.append(self._number(_INTEGERS[operation]))
            else:
                getattr(self, f"_{operation}")()
        return self._stack.pop()

    def _take(self, count: int) -> bytes:
        piece = self._program[self._position : self._position + count]
        if len(piece) != count:
            raise IndexError
        self._position += count
        return piece

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _since_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                items = self._stack[index + 1 :]
                del self._stack[index:]
                return items
        raise IndexError

    def _proto(self) -> None:
        version = self._number("<B")
        if version > 5:
            raise UnsupportedError(f"{self._path} has a pickle of version {version}; 2 to 5 can be")

    def _frame(self) -> None:
        self._take(8)

    def _line(self) -> str:
        end = self._program.index(b"\n", self._position, self._position + 256)
        line = self._take(end - self._position).decode("utf-8")
        self._take(1)
        return line

    def _name(self) -> None:
        try:
            self._refer(f"{self._line()}.{self._line()}")
        except ValueError:
            self.damaged("a name is longer than 256 bytes")

    def _stack_name(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            self.damaged("a name is no text")
        self._refer(f"{module}.{name}")

    def _refer(self, name: str) -> None:
        if name not in _KNOWN:
            raise UnsupportedError(
                f"{self._path} asks for {clean(name)}, which is not a weight in F32, F16 or BF16; "
                "it is refused, and nothing of it was run"
            )
        self._stack.append(_Name(name))

    def _mark(self) -> None:
        self._stack.append(_MARK)

    def _tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _last(self, count: int) -> None:
        items = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _tuple1(self) -> None:
        self._last(1)

    def _tuple2(self) -> None:
        self._last(2)

    def _tuple3(self) -> None:
        self._last(3)

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _empty_list(self) -> None:
        self._stack.append([])

    def _append(self) -> None:
        self._extend([self._stack.pop()])

    def _appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            self.damaged("it adds an item to what is no list")
        self._stack[-1].extend(items)

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set_items(self) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        table = self._stack[-1]
        if not isinstance(table, dict) or len(items) % 2:
            self.damaged("it adds an entry to what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only texts: hashing nested tuples could take for ever.
            if not isinstance(key, str):
                self.damaged(f"a dictionary has a {type(key).__name__} as its key, not a text")
            if key in table:
                self.damaged(f"the entry {clean(key)} occurs twice")
            table[key] = value

    def _text4(self) -> None:
        self._stack.append(self._take(self._number("<I")).decode("utf-8"))

    def _text1(self) -> None:
        self._stack.append(self._take(self._number("<B")).decode("utf-8"))

    def _long1(self) -> None:
        size = self._number("<B")
        if size > _MAX_NUMBER_BYTES:
            self.damaged(f"a number of {size} bytes")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _float8(self) -> None:
        self._stack.append(self._number(">d"))

    def _put1(self) -> None:
        self._memo[self._number("<B")] = self._stack[-1]

    def _put4(self) -> None:
        self._memo[self._number("<I")] = self._stack[-1]

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get1(self) -> None:
        self._remember(self._number("<B"))

    def _get4(self) -> None:
        self._remember(self._number("<I"))

    def _remember(self, index: int) -> None:
        if index not in self._memo:
            self.damaged(f"it refers to value {index}, which there is not")
        self._stack.append(self._memo[index])

    def _build(self) -> None:
        """Attributes of a dictionary (its `_metadata`, from `Module.state_dict`): not needed."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict):
            self.damaged("it gives attributes to what is no dictionary")

    def _storage(self) -> None:
        match self._stack.pop():
            case ("storage", _Name(name), str(key), str(), int(count)) if name in _STORAGES:
                if not (key.isascii() and key.isdigit()) or count < 0:
                    self.damaged(f"a storage is called {clean(key)} and has {count} numbers")
                self._stack.append(Storage(_STORAGES[name], key, count))
            case _:
                self.damaged("a storage has no type, name or length")

    def _call(self) -> None:
        arguments, what = self._stack.pop(), self._stack.pop()
        match (what, arguments):
            case (_Name("collections.OrderedDict"), ()):
                self._stack.append({})
            case (
                _Name("torch._utils._rebuild_tensor_v2"),
                (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_),
            ) if all(type(n) is int for n in (*shape, *strides)):
                self._stack.append(View(storage, offset, shape, strides))
            case (_Name("torch._utils._rebuild_parameter"), (View() as view, *_)):
                self._stack.append(view)
            case _:
                self.damaged("it puts a tensor together from what is none")
