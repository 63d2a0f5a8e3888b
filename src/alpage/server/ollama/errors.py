"""Errors in Ollama's shape."""

from typing import Any

from alpage.core.errors import AlpageError

_NAMES = {
    "json_schema": "format",
    "max_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
}
"""What Ollama's clients call what a message begins with."""


def error_body(error: AlpageError) -> dict[str, Any]:
    """`{"error": "message"}`."""
    word, space, rest = str(error).partition(" ")
    return {"error": f"{_NAMES.get(word, word)}{space}{rest}"}
