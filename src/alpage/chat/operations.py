"""The string operations of templates that can grow a value: bounded, and keeping trusted spans."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from string import Formatter
from typing import Any

from alpage.chat.budget import Budget, Refused
from alpage.chat.marked import Marked, concat

_WIDTH = 10_000
_PARTS = 100_000
_DIRECTIVE = re.compile(
    r"%(?:(?P<percent>%)|(?:\((?P<key>[^()]*)\))?"
    r"(?P<flags>[#0\- +]*\d{0,3}(?:\.\d{0,3})?)(?P<kind>[sdiouxXeEfFgGcra]))"
)
_SPECIFICATION = re.compile(r"(?:[^{}]?[<>=^])?[ +\-]?#?0?\d{0,3}[,_]?(?:\.\d{1,3})?[a-zA-Z%]?")
_TIME = re.compile(r"(?:[^%]|%[-_0^#]?[A-Za-z%])*")


def joined(budget: Budget, pieces: Iterable[Any]) -> Marked:
    """`~`, `join` and the output itself: text of all pieces, counted before it is joined."""

    def texts() -> Iterator[str]:
        total = 0
        for piece in pieces:
            text = budget.text_of(piece)
            total += len(text)
            budget.check(total)
            yield text

    out = concat(texts())
    budget.spend(len(out) + 4 * len(out.spans))
    return out


def replaced(budget: Budget, text: str, old: str, new: str, count: Any = None) -> str:
    """`replace`, refused when the result would be too large."""
    times = len(text) + 1 if not old else text.count(old)
    budget.check(len(text) + times * max(0, len(new) - len(old)))
    return Marked.replace(_marked(text), old, new, -1 if count is None else count)


def percent(budget: Budget, template: str, values: Any) -> str:
    """`template % values`, one directive at a time, each result counted before the next."""
    marked = _marked(template)
    mapping = values if isinstance(values, Mapping) else None
    waiting = list(values) if isinstance(values, tuple) else [values]
    used = 0

    def pieces() -> Iterator[str]:
        nonlocal used
        position = 0
        while (found := str.find(marked, "%", position)) >= 0:
            yield marked[position:found]
            match = _DIRECTIVE.match(marked, found)
            if match is None:
                raise Refused(f"it formats with {str(marked[found : found + 12])!r}")
            position = match.end()
            if match["percent"]:
                yield marked[found : found + 1]
                continue
            if match["key"] is not None:
                if mapping is None:
                    raise TypeError("format requires a mapping")
                value = mapping[match["key"]]
            elif used < len(waiting):
                value = waiting[used]
                used += 1
            else:
                raise TypeError("not enough arguments for format string")
            yield _one_directive(budget, match, value)
        yield marked[position:]

    out = joined(budget, pieces())
    if mapping is None and used < len(waiting):
        raise TypeError("not all arguments converted during string formatting")
    return out


def _one_directive(budget: Budget, match: re.Match[str], value: Any) -> str:
    budget.step()
    if match["kind"] in "sra" and not isinstance(value, str | int | float | None):
        budget.text_of(value)  # measured: a list that holds itself many times is refused here
    if match["kind"] == "s":
        text = budget.text_of(value)
        return text if not match["flags"] else f"%{match['flags']}s" % text
    return f"%{match['flags']}{match['kind']}" % (value,)


def formatted(budget: Budget, template: str, args: tuple[Any, ...], names: dict[str, Any]) -> str:
    """`template.format(...)` with plain fields: `{}`, `{0}`, `{name}`, and short number formats."""
    # `{{` makes places in the source and in the literal differ; so: all of it is trusted, or none.
    trusted = isinstance(template, Marked) and template.spans == ((0, len(template)),)
    numbered = iter(range(len(template)))

    def pieces() -> Iterator[str]:
        for literal, field, specification, conversion in Formatter().parse(template):
            budget.step()
            yield Marked.literal(literal) if trusted else literal
            if field is None:
                continue
            if field and not field.isdecimal() and not field.isidentifier():
                raise Refused(f"it formats with the field {field!r}")
            if field and not field.isdecimal():
                value = names[field]
            else:
                value = args[int(field or next(numbered))]
            yield _one_field(budget, value, specification or "", conversion)

    return joined(budget, pieces())


def _one_field(budget: Budget, value: Any, specification: str, conversion: str | None) -> str:
    if conversion not in (None, "s", "r"):
        raise Refused(f"it formats with !{conversion}")
    if not _SPECIFICATION.fullmatch(specification):
        raise Refused(f"it formats with {specification[:20]!r}")
    text = budget.text_of(value)
    if conversion == "r":
        text = repr(value)
    elif specification:
        text = format(value if isinstance(value, int | float) else text, specification)
    return text


def _marked(text: str) -> Marked:
    return text if isinstance(text, Marked) else Marked(text)


def call_method(budget: Budget, owner: Any, name: str, args: Any, names: Any) -> Any:
    """Call a permitted method; the ones that can grow a string are bounded first."""
    if isinstance(owner, str):
        if name == "format":
            return formatted(budget, owner, args, names)
        if name == "join":
            (parts,) = args
            return joined(budget, _interleaved(_strings(parts), owner))
        if name == "replace":
            return replaced(budget, owner, *args, **names)
        if name in ("split", "rsplit", "splitlines"):
            parts = getattr(str, name)(owner, *args, **names)
            if len(parts) > _PARTS:
                raise Refused(f"it splits a text into more than {_PARTS:,} parts")
        if name in ("center", "ljust", "rjust", "zfill"):
            check_width(args[0] if args else names.get("width", 0))
    return getattr(owner, name)(*args, **names)


def check_width(width: Any) -> None:
    """Refuse paddings and indents that only serve to fill memory."""
    if isinstance(width, int) and abs(width) > _WIDTH:
        raise Refused(f"it pads to {width} characters")


def _strings(parts: Iterable[Any]) -> Iterator[str]:
    for index, part in enumerate(parts):
        if not isinstance(part, str):
            raise TypeError(
                f"sequence item {index}: expected str instance, {type(part).__name__} found"
            )
        yield part


def _interleaved(parts: Iterable[Any], separator: Any) -> Iterator[Any]:
    for index, part in enumerate(parts):
        if index:
            yield separator
        yield part


def join_filter(budget: Budget, parts: Iterable[Any], separator: Any = "") -> Marked:
    """Jinja's `join` filter: any values, made into text."""
    return joined(budget, _interleaved(parts, separator))


def to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` as Hugging Face defines it: no HTML escapes. Never trusted: it is data."""
    for text in (*(separators or ()), indent if isinstance(indent, str) else ""):
        if len(text) > 16:
            raise Refused("its tojson writes separators of more than 16 characters")
    if isinstance(indent, int) and abs(indent) > 16:
        raise Refused(f"its tojson indents by {indent}")
    budget.measure((value,))
    encoder = json.JSONEncoder(
        ensure_ascii=bool(ensure_ascii),
        indent=indent,
        separators=separators,
        sort_keys=bool(sort_keys),
    )
    return joined(budget, encoder.iterencode(value))


def add_up(values: Iterable[Any], start: Any = 0) -> Any:
    """`sum` of numbers only; lists and strings would grow in one step."""
    total = start
    for value in (start, *values):
        if not isinstance(value, int | float):
            raise Refused(f"it sums a {type(value).__name__}")
    for value in values:
        total += value
    return total


def count_range(*limits: int) -> range:
    """Build `range`, at most 100,000 long."""
    numbers = range(*limits)
    if abs(numbers.stop - numbers.start) // abs(numbers.step) > _PARTS:
        raise Refused(f"it asks for {numbers}, longer than {_PARTS:,}")
    return numbers


def strftime_now(form: str) -> str:
    """Format the current local time; the fields of `strftime` without widths."""
    if len(form) > 200 or not _TIME.fullmatch(form):
        raise Refused(f"it formats the time with {form[:40]!r}")
    return datetime.now().strftime(form)


def arithmetic(
    budget: Budget, operator: str, left: Any, right: Any, plain: Callable[..., Any]
) -> Any:
    """Binary operators, with the size of the result known before it is made."""
    if operator == "%" and isinstance(left, str):
        return percent(budget, left, right)
    if operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(times, int):
                size = len(many) if isinstance(many, str) else budget.measure(many)[0]
                budget.check(size * max(0, times))
    elif operator == "**" and (abs(left) > 1e18 or abs(right) > 64):
        raise Refused("it raises large numbers to large powers")
    elif operator == "+" and isinstance(left, str) and isinstance(right, str):
        budget.check(len(left) + len(right))
        return concat((left, right))
    return plain(left, right)


def check_indent(budget: Budget, text: Any, width: int | str = 4, *_: Any, **__: Any) -> None:
    """Refuse an `indent` filter that would write more than one value may hold."""
    size = len(width) if isinstance(width, str) else abs(width)
    budget.check(budget.text_of(text).count("\n") * size)
