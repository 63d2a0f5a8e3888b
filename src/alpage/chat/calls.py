"""Tool calls and the notations in which models write them: JSON and Python-like calls.

Every function here takes one complete text and gives calls, or None when the text is anything
else. Nothing is evaluated, and nesting is bounded, so hostile text costs linear time.
"""

import json
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

CODE_NAMES = ("code_interpreter", "python", "ipython")
TERMINATORS = ("<|eom_id|>", "<|eot_id|>", "<|end_of_text|>", "<|im_end|>")
CALL_KEYS = frozenset({"name", "parameters", "arguments", "type", "id"})

_MAX_DEPTH = 64
_LONGEST_INTEGER = 4000  # digits; Python reads 4,300
_MAX_CALLS = 128
_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,127}", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w{0,127}(?:\.[A-Za-z_]\w{0,127})*", re.ASCII)
_SPACE = re.compile(r"\s*")
_SEPARATOR = re.compile(r"[\s;,]*")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:_\d+)*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "0": "\0", "\n": ""}
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: the function's name, its arguments as JSON text, and the same parsed."""

    name: str
    arguments: str
    parsed: dict[str, Any]


class _NotACall(Exception):  # noqa: N818  (control flow inside this file)
    pass


def make_call(name: Any, arguments: Any, known: Collection[str] | None) -> ToolCall | None:
    """Build a call, or None if the name is unknown or the arguments are no JSON object."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    if known is not None and name not in known:
        return None
    if isinstance(arguments, str):  # a few models write the object as a string of JSON
        arguments = load_json(arguments)
    if not isinstance(arguments, dict):
        return None
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: legal in JSON, not in UTF-8
        text = json.dumps(arguments)
    except (ValueError, RecursionError):  # 1e999 is read as infinity, which JSON can not write
        return None
    return ToolCall(name, text, arguments)


def load_json(text: str, *, clamped: bool = False) -> Any:
    """Parse strict JSON; None for anything else (a bare `null` too: it is no call either)."""
    try:
        return _decoder(clamped).decode(text)
    except (ValueError, RecursionError):
        return None


def _decoder(clamped: bool) -> json.JSONDecoder:
    """`clamped`: numbers beyond the largest of double precision are read as that one."""
    if not clamped:
        return json.JSONDecoder(parse_constant=_refuse_constant)
    return json.JSONDecoder(
        parse_constant=_refuse_constant,
        parse_float=_clamped,
        parse_int=lambda text: int(text) if len(text) < _LONGEST_INTEGER else _clamped(text),
    )


def _clamped(text: str) -> float:
    return min(max(float(text), -sys.float_info.max), sys.float_info.max)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def call_from_object(data: Any, known: Collection[str] | None) -> ToolCall | None:
    """`{"name": ..., "parameters" | "arguments": {...}}`, optionally with `"type": "function"`."""
    if not isinstance(data, dict) or not CALL_KEYS.issuperset(data):
        return None
    if data.get("type", "function") != "function":
        return None
    given = [data[key] for key in ("parameters", "arguments") if key in data]
    if len(given) > 1:
        return None
    if not given:
        # `{"name": "Ada"}` is data; only a name that is known to be a tool's makes it a call.
        return None if known is None else make_call(data.get("name"), {}, known)
    return make_call(data.get("name"), {} if given[0] is None else given[0], known)


def calls_from_json(
    text: str, known: Collection[str] | None, *, clamped: bool = False
) -> list[ToolCall] | None:
    """Call objects one after the other (between them spaces, `;` or `,`), or an array of them."""
    decoder = _decoder(clamped)
    calls: list[ToolCall] = []
    position = _skip(_SPACE, text, 0)
    while position < len(text):
        try:
            data, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return None
        for item in data if isinstance(data, list) else [data]:
            call = call_from_object(item, known)
            if call is None or len(calls) >= _MAX_CALLS:
                return None
            calls.append(call)
        position = _skip(_SEPARATOR, text, position)
    return calls or None


def calls_from_python(text: str, known: Collection[str] | None) -> list[ToolCall] | None:
    """`[f(a=1), g(b="x")]`: keyword arguments with literal values."""
    reader = _Literals(text)
    try:
        reader.expect("[")
        found = [reader.call()]
        while reader.accept(","):
            if len(found) >= _MAX_CALLS:
                return None
            found.append(reader.call())
        reader.expect("]")
        reader.end()
    except (_NotACall, ValueError):
        return None
    calls = [make_call(name, arguments, known) for name, arguments in found]
    return None if None in calls else [call for call in calls if call is not None]


def calls_from_python_tag(text: str, known: Collection[str] | None) -> list[ToolCall] | None:
    """What follows `<|python_tag|>`: call objects, `brave_search.call(query="...")`, or code."""
    text = strip_terminators(text)
    if not text.strip():
        return None
    if text.lstrip().startswith("{"):
        return calls_from_json(text, known)
    if (calls := calls_from_python(text, known)) is not None:
        return calls
    reader = _Literals(text)
    try:
        name, arguments = reader.call()
        reader.end()
    except (_NotACall, ValueError):
        pass
    else:
        if name.endswith(".call"):
            call = make_call(name.removesuffix(".call"), arguments, known)
            return [call] if call else None
    for name in CODE_NAMES:
        if known is None or name in known:
            call = make_call(name, {"code": text.strip("\n")}, known)
            return [call] if call else None
    return None


def strip_terminators(text: str) -> str:
    """Take the tokens that end an answer off its end, where a decoder left them in."""
    stop = len(text)
    while True:
        while stop and text[stop - 1].isspace():
            stop -= 1
        ending = next((end for end in TERMINATORS if text.endswith(end, 0, stop)), None)
        if ending is None:
            return text[:stop]
        stop -= len(ending)


def valid_name(text: str) -> bool:
    """Whether `text` can be a function's name."""
    return _NAME.fullmatch(text) is not None


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


class _Literals:
    """Reads calls with literal arguments; a small parser, since `ast` has no bound on depth."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def accept(self, mark: str) -> bool:
        self.position = _skip(_SPACE, self.text, self.position)
        if not self.text.startswith(mark, self.position):
            return False
        self.position += len(mark)
        return True

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            raise _NotACall

    def end(self) -> None:
        self.position = _skip(_SPACE, self.text, self.position)
        if self.position < len(self.text):
            raise _NotACall

    def take(self, pattern: re.Pattern[str]) -> str | None:
        self.position = _skip(_SPACE, self.text, self.position)
        match = pattern.match(self.text, self.position)
        if match is None:
            return None
        self.position = match.end()
        return match.group()

    def call(self) -> tuple[str, dict[str, Any]]:
        name = self.take(_IDENTIFIER)
        if name is None:
            raise _NotACall
        self.expect("(")
        arguments: dict[str, Any] = {}
        while not self.accept(")"):
            key = self.take(_IDENTIFIER)
            if key is None or "." in key or key in arguments:
                raise _NotACall
            self.expect("=")
            arguments[key] = self.value(0)
            if not self.accept(","):
                self.expect(")")
                break
        return name, arguments

    def value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise _NotACall
        for opening, closing in (("[", "]"), ("(", ")")):
            if self.accept(opening):
                return self.items(closing, depth)
        if self.accept("{"):
            return self.entries(depth)
        if (quoted := self.take(_STRING)) is not None:
            return self.string(quoted)
        if (number := self.take(_NUMBER)) is not None:
            whole = number.replace("_", "").lstrip("+-").isdigit()
            return int(number) if whole else float(number)
        if (word := self.take(_IDENTIFIER)) in _WORDS:
            return _WORDS[word]
        raise _NotACall

    def string(self, quoted: str) -> str:
        texts = [_unescape(quoted)]
        while (more := self.take(_STRING)) is not None:
            texts.append(_unescape(more))
        return "".join(texts)

    def items(self, closing: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not self.accept(closing):
            items.append(self.value(depth + 1))
            if not self.accept(","):
                self.expect(closing)
                break
        return items

    def entries(self, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not self.accept("}"):
            key = self.take(_STRING)
            if key is None:
                raise _NotACall
            self.expect(":")
            entries[_unescape(key)] = self.value(depth + 1)
            if not self.accept(","):
                self.expect("}")
                break
        return entries


def _unescape(quoted: str) -> str:
    def plain(match: re.Match[str]) -> str:
        code = match[1] or match[2]
        if code:
            return chr(int(code, 16))
        return _ESCAPES.get(match[3], match[0])

    return _ESCAPE.sub(plain, quoted[1:-1])
