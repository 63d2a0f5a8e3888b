"""Numbers and formats of JSON Schemas, in the form in which `llguidance` keeps them exactly.

The library reads decimals of more than fifteen digits a little wrong, and lets digits behind a
bound make a number that a reader rounds onto it. So bounds are moved inwards, by less than a
reader could tell, and what cannot be moved is refused.
"""

import math
from collections.abc import Iterator, Mapping
from decimal import ROUND_FLOOR, Decimal
from typing import Any

DIGITS = 15
LARGEST = 1 << 53
"""Integers up to here are exact as floating point numbers; bounds beyond are moved to it."""
_FINEST = -15  # power of ten: the smallest step of a bound
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][48]|[2468]0|[13579][26])00)"
_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_DAY = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP}-02-29)"
)
_ZONE = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_TIME = rf"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,9}})?{_ZONE}"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_ATOM = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"

PATTERNS = {
    "date": f"^{_DAY}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DAY}T{_TIME}$",
    "email": rf"^{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})+$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL})*$",
    "byte": f"^{_BASE64}$",
    "base64": f"^{_BASE64}$",
    "base64url": "^(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}(?:==)?|[A-Za-z0-9_-]{3}=?)?$",
    "json-pointer": "^(?:/(?:[^~/]|~[01])*)*$",
}
"""Formats of strings that a pattern of ours says; no leap seconds, and years from 0001."""
LENGTHS = {"hostname": 253, "email": 254}
LIBRARY = frozenset({"duration", "ipv4", "ipv6", "uuid", "uri"})
"""Formats of strings that the library enforces as they are defined."""
SHOWN = frozenset(
    {"password", "binary", "float", "double", "decimal", "path", "file-path", "directory-path"}
)
"""Formats of OpenAPI and pydantic that allow every string or number."""
INTEGERS = {
    "int8": (-(1 << 7), (1 << 7) - 1),
    "uint8": (0, (1 << 8) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "uint16": (0, (1 << 16) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "uint32": (0, (1 << 32) - 1),
    "int64": (-LARGEST, LARGEST),
    "uint64": (0, LARGEST),
}
"""Formats of OpenAPI for integers, and the bounds that enforce them."""


class InexactError(ValueError):
    """What a keyword's value asks for that cannot be enforced."""


def lower_bound(value: int | float, *, exclusive: bool) -> int | float:
    """The smallest number in the library's reach that is at least, or more than, `value`."""
    return -_upper(-_decimal(value), exclusive=exclusive)


def upper_bound(value: int | float, *, exclusive: bool) -> int | float:
    """The largest number in the library's reach that is at most, or less than, `value`."""
    return _upper(_decimal(value), exclusive=exclusive)


def _upper(limit: Decimal, *, exclusive: bool) -> int | float:
    if limit > LARGEST:
        return LARGEST
    if limit < -LARGEST:
        raise InexactError(f"numbers beyond {LARGEST:,} are not exact")
    place = max(limit.adjusted() - DIGITS + 1, _FINEST) if limit else _FINEST
    step = Decimal(1).scaleb(min(place, 0))
    found = limit.quantize(step, ROUND_FLOOR)
    if exclusive and found == limit:
        found -= step
    return int(found) if found == found.to_integral_value() else float(found)


def steps_below(value: int | float) -> list[int | float]:
    """Upper bounds that together let every short decimal below a positive `value` be written.

    With 1.99999 as its bound the library does not take "1.9", only "1.90"; with 1.9 it does.
    """
    limit = _decimal(value)
    found = []
    for places in (1, 2, 3, 4):
        step = Decimal(1).scaleb(-places)
        bound = limit.quantize(step, ROUND_FLOOR)
        bound -= step if bound == limit else 0
        if bound > 0 and bound != bound.to_integral_value():
            found.append(float(bound))
    return found


def _decimal(value: int | float) -> Decimal:
    return Decimal(value) if isinstance(value, int) else Decimal(repr(value))


def multiple(value: int | float) -> int | float:
    """A `multipleOf` that readers can check without rounding: an integer, or 1/2, 1/4, ..."""
    if value <= 0:
        raise InexactError(f"it must be more than 0, not {value}")
    if value == int(value) and value < 1 << 32:
        return int(value)
    if value in (0.5, 0.25, 0.125, 0.0625):
        return value
    raise InexactError(
        f"{value} is neither an integer below 2**32 nor 0.5, 0.25, 0.125 or 0.0625: "
        "readers round others"
    )


def check_value(value: Any) -> None:
    """A InexactError for a `const` or a member of an `enum` that would not be spelled exactly."""
    for part in leaves(value):
        if isinstance(part, bool) or not isinstance(part, int | float):
            continue
        if isinstance(part, int):
            exact = abs(part) <= LARGEST
        else:
            number = _decimal(part).normalize()
            _, digits, exponent = number.as_tuple()
            exact = len(digits) <= DIGITS and isinstance(exponent, int) and -22 <= exponent <= 22
        if not exact:
            raise InexactError(f"the number {part} has more digits than are kept")


def leaves(value: Any) -> Iterator[Any]:
    """Every scalar in a JSON value."""
    found = [value]
    while found:
        part = found.pop()
        if isinstance(part, Mapping):
            found += part.values()
        elif isinstance(part, list | tuple):
            found += part
        else:
            yield part


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 is 1.0, and neither is true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


def can_meet(multiples: set[int | float]) -> bool:
    """Whether the library's 32 bits hold what it computes where two such `multipleOf` meet."""
    scale = 10_000 if any(value < 1 for value in multiples) else 1
    scaled = [value * scale for value in multiples]
    return not scaled or math.prod(scaled) * max(scaled) < 1 << 32
