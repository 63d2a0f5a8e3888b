"""Options that several verbs have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from alpage.core.errors import UsageError
from alpage.core.types import ContextPolicy, SamplingParams
from alpage.core.types import KvType as CacheType

if TYPE_CHECKING:  # help and errors of usage need no engine
    from alpage.llama import AnswerOptions, SamplingOptions

_MAX_GRAMMAR = 1 << 20  # bytes read; the compiler takes fewer, and says so
_ENGINE = "Engine"
_ANSWER = "How the answer is made"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name of alpage list, ORG/NAME of a hub, ollama:NAME, or a GGUF file or folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="Database of keys and usage: sqlite:///PATH or postgresql://USER@HOST/NAME. Default: "
        "ALPAGE_DATABASE (which hides a password from other users), or a file of your own.",
        show_default=False,
    ),
]

Engine = Annotated[
    Literal["native", "torch"],
    typer.Option(
        help="native, or torch: the slow, plain reference (needs PyTorch).",
        rich_help_panel=_ENGINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Threads of the engine. Default: the processors of this process.",
        rich_help_panel=_ENGINE,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Room for prompt and answer. Default: the model's, at most 8192.",
        rich_help_panel=_ENGINE,
    ),
]
KvType = Annotated[
    CacheType,
    typer.Option(
        "--kv-type",
        help="Numbers of the key/value cache: int8 takes half the memory, a little less exactly.",
        rich_help_panel=_ENGINE,
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A smaller model with the same vocabulary that writes ahead; no answer changes.",
        rich_help_panel=_ENGINE,
    ),
]
Policy = Annotated[
    ContextPolicy,
    typer.Option(
        "--context-policy",
        help="When the context is full: stop the answer, or shift (drop the oldest and go on).",
        rich_help_panel=_ENGINE,
    ),
]

System = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The system prompt.", rich_help_panel=_ANSWER),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Longest answer. Default: until the model ends it or the context is full.",
        rich_help_panel=_ANSWER,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="0: always the likeliest token; higher: more varied. Default: 0.6.",
        rich_help_panel=_ANSWER,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(metavar="K", help="Only the K likeliest tokens; 0: all.", rich_help_panel=_ANSWER),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Only the likeliest tokens that make up P together. Default: 0.9.",
        rich_help_panel=_ANSWER,
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Only tokens at least P times as likely as the likeliest.",
        rich_help_panel=_ANSWER,
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Above 1: tokens of prompt and answer become less likely.",
        rich_help_panel=_ANSWER,
    ),
]
PresencePenalty = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Taken off the logit of every token used.", rich_help_panel=_ANSWER
    ),
]
FrequencyPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Taken off the logit for each use of a token.", rich_help_panel=_ANSWER
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="The same seed gives the same answer.", rich_help_panel=_ANSWER),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="End the answer before this text. Can be repeated.",
        rich_help_panel=_ANSWER,
    ),
]
JsonSchema = Annotated[
    str | None,
    typer.Option(
        "--json-schema",
        metavar="FILE|JSON",
        help="Answer with JSON of this schema.",
        rich_help_panel=_ANSWER,
    ),
]
Regex = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX", help="Answer with text that this matches.", rich_help_panel=_ANSWER
    ),
]
GrammarFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Answer as this grammar in Lark's notation.", rich_help_panel=_ANSWER
    ),
]


def constraint(json_schema: str | None, regex: str | None, grammar: Path | None) -> "AnswerOptions":
    """What the answer has to follow, with the files read."""
    given = {"--json-schema": json_schema, "--regex": regex, "--grammar": grammar}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"an answer follows one grammar: give {' or '.join(names)}")
    if json_schema is not None:
        inline = json_schema.lstrip().startswith(("{", "true", "false"))
        text = json_schema if inline else _read(Path(json_schema), "--json-schema")
        return {"json_schema": text}
    if grammar is not None:
        return {"grammar": _read(grammar, "--grammar")}
    return {} if regex is None else {"regex": regex}


def _read(path: Path, option: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_GRAMMAR).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} cannot read {path}: {error}") from error


def sampling(policy: ContextPolicy, **given: Any) -> "SamplingOptions":
    """The options that were given, as the facade takes them; UsageError for what is wrong."""
    options = {name: value for name, value in given.items() if value is not None}
    options["context_policy"] = policy
    SamplingParams(**options)  # checks them now, before a model is fetched and loaded
    return cast("SamplingOptions", options)
