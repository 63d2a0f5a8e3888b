"""`tokenizer_config.json`: which tokens begin and end a text, in the Hugging Face layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpage.core.errors import FormatError
from alpage.tokenizer.files import read_bounded

MAX_BYTES = 64 << 20
Object = Mapping[str, Any]


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """Contents of a JSON file; `FormatError` when it is none or too long."""
    try:
        return json.loads(read_bounded(path, limit))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error


def as_object(value: Any, where: str) -> Object:
    """`value` if it is a JSON object, else `FormatError` with the name of the place."""
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be a JSON object, not {type(value).__name__}")
    return value


def read_config(path: Path) -> Object:
    """The settings beside a tokenizer file; empty where there are none."""
    if not path.is_file():
        return {}
    return as_object(read_json(path), str(path))


def named_token(config: Object, key: str, tokens: Mapping[str, int]) -> int | None:
    """Id of the token that the entry `key` (a text, or an object with `content`) names."""
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is None:
        return None
    if not isinstance(value, str) or value not in tokens:
        raise FormatError(f"tokenizer_config.json: {key} is {value!r:.80}, which is no token")
    return tokens[value]
