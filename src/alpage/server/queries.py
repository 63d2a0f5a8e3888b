"""What a dialect asks of a model, free of any dialect and of JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from alpage.core.types import Message
from alpage.llama import AnswerOptions

ToolChoice = Literal["auto", "none", "required"]
_SEEDS = 1 << 64
_SHORT = 2000
"""Characters, or ids, of prompts that are encoded sooner than a thread for that is found."""
_GRAMMARS = frozenset({"json_schema", "regex", "grammar"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What chats and completions have in common.

    `stop`: strings that end an answer. `choices`: answers for each prompt; number i of them has
    the seed `options["seed"]` + i.
    """

    options: AnswerOptions = field(default_factory=AnswerOptions)
    stop: Sequence[str] = ()
    choices: int = 1

    @property
    def is_short(self) -> bool:
        """Whether to prepare it takes so little that nobody notices who waits meanwhile."""
        return False

    def seed_of(self, choice: int) -> int | None:
        """The seed of choice number `choice`; clients' seeds may be negative."""
        seed = self.options.get("seed")
        return None if seed is None else (seed + choice) % _SEEDS


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatQuery(Query):
    """The next message of a conversation. `messages` and `tools` are in OpenAI's form.

    `tool`: the name of the one function that has to be called, whatever `tool_choice` says.
    `begun`: how the answer begins; it goes on from there, and does not repeat it.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: ToolChoice = "auto"
    tool: str | None = None
    parallel_tool_calls: bool = True
    begun: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextQuery(Query):
    """Texts, or token ids, and what follows each.

    `score_prompts` gives the log-probability of every token of the prompts; without `answer`
    nothing else happens.
    """

    prompts: Sequence[str | Sequence[int]]
    score_prompts: bool = False
    answer: bool = True

    @property
    def is_short(self) -> bool:
        """See `Query`."""
        return _GRAMMARS.isdisjoint(self.options) and sum(map(len, self.prompts)) <= _SHORT


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedQuery:
    """Texts, or token ids, whose meanings are wanted as vectors."""

    inputs: Sequence[str | Sequence[int]]
