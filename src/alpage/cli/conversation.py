"""A conversation: what was said, and how it is kept in a file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpage.core.errors import FormatError, NotFoundError, UsageError
from alpage.core.paths import atomic_write, storage_errors
from alpage.core.types import Message

_KIND = "alpage conversation"
_MAX_FILE = 64 << 20
_ROLES = ("system", "user", "assistant")


@dataclass(slots=True)
class Conversation:
    """Turns of user and assistant, and the system prompt that stands before them."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    def messages(self, first: int = 0) -> list[Message]:
        """What the model is given, without the `first` turns."""
        head = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*head, *self.turns[first:]]

    def save(self, path: Path) -> None:
        """Write to `path`, whole or not at all; only a conversation is ever replaced."""
        with storage_errors(f"read {path}"):
            if path.exists():
                try:
                    read_conversation(path)
                except FormatError:
                    raise UsageError(
                        f"{path} exists and is no conversation of Alpage's; choose another name"
                    ) from None
        document = {"kind": _KIND, "version": 1, "messages": self.messages()}
        with atomic_write(path) as file:
            file.write(json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n")


def read_conversation(path: Path) -> Conversation:
    """The conversation in `path`; NotFoundError, StorageError or FormatError."""
    with storage_errors(f"read {path}"):
        if not path.exists():
            raise NotFoundError(f"there is no file {path}")
        if not path.is_file():
            raise FormatError(f"{path} is not a file")
        if path.stat().st_size > _MAX_FILE:
            raise FormatError(f"{path} is larger than {_MAX_FILE >> 20} MB: no conversation")
        data = path.read_bytes()
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        raise FormatError(f'{path} is no conversation: it lacks "kind": "{_KIND}"')
    if document.get("version") != 1:
        raise FormatError(f"{path} has version {document.get('version')!r:.40}; Alpage reads 1")
    messages = document.get("messages")
    if not isinstance(messages, list):
        raise FormatError(f'{path} has no list of "messages"')
    checked = [_checked(message, index, path) for index, message in enumerate(messages)]
    system = checked.pop(0)["content"] if checked and checked[0]["role"] == "system" else None
    return Conversation(system, list(checked))


def _checked(message: Any, index: int, path: Path) -> dict[str, str]:
    """One message with nothing but a role and text."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise FormatError(f'{path}: message {index} is not {{"role": ..., "content": "..."}}')
    role, content = message.get("role"), message["content"]
    if role not in _ROLES[bool(index) :]:  # a system prompt comes first or not at all
        raise FormatError(
            f"{path}: message {index} has role {role!r:.40}; expected one of "
            + ", ".join(_ROLES[bool(index) :])
        )
    try:
        content.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{path}: message {index} has half a surrogate pair") from None
    return {"role": role, "content": content}
