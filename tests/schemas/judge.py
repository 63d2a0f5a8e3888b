"""Whether an answer is what a schema allows, by other people's validators."""

import datetime
import json
import re
from typing import Any
from urllib.parse import urlsplit

import jsonschema  # type: ignore[import-untyped]
from jsonschema.exceptions import ValidationError  # type: ignore[import-untyped]

_FORMATS = jsonschema.FormatChecker()
_DURATION = re.compile(
    r"P(?=.)(?:\d+W|(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=.)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?)", re.ASCII
)


@_FORMATS.checks("date-time", raises=ValueError)  # type: ignore[untyped-decorator]
def _is_date_time(value: object) -> bool:
    if not isinstance(value, str):
        return True
    parsed = datetime.datetime.fromisoformat(_seconds(value))
    return value[10] in "Tt" and parsed.tzinfo is not None


@_FORMATS.checks("time", raises=ValueError)  # type: ignore[untyped-decorator]
def _is_time(value: object) -> bool:
    if not isinstance(value, str):
        return True
    return datetime.time.fromisoformat(_seconds(value)).tzinfo is not None


def _seconds(value: str) -> str:
    """At most six digits behind the point, which is all that Python reads."""
    return re.sub(r"(\.[0-9]{1,6})[0-9]*", r"\1", value)


@_FORMATS.checks("duration")  # type: ignore[untyped-decorator]
def _is_duration(value: object) -> bool:
    return not isinstance(value, str) or _DURATION.fullmatch(value) is not None


@_FORMATS.checks("hostname")  # type: ignore[untyped-decorator]
def _is_hostname(value: object) -> bool:
    if not isinstance(value, str):
        return True
    labels = value.split(".")
    return len(value) <= 253 and all(
        re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", label) for label in labels
    )


@_FORMATS.checks("uri", raises=ValueError)  # type: ignore[untyped-decorator]
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or (bool(urlsplit(value).scheme) and " " not in value)


def judged(schema: dict[str, Any], text: str) -> str | None:
    """What is wrong with a complete answer, None where it is valid."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        validator(schema, format_checker=_FORMATS).validate(value)
    except ValidationError as error:
        return f"{error.validator} at {list(error.absolute_path)}: {error.message}"[:500]
    return None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")
