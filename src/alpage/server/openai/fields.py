"""Fields that chats and completions share, and how a body becomes a checked request.

Nothing is ignored in silence. A field is honoured; or it is declared here with the only values that
change no answer, and every other value is refused by name; or it is unknown and refused.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from alpage.core.types import ContextPolicy
from alpage.llama import AnswerOptions
from alpage.server.errors import RequestError

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_BIASES = 8192
MAX_SECONDS = 86_400
MAX_SCHEMA = 1 << 18
MAX_PATTERN = 1 << 16
MAX_ITEMS = 16_384
"""Messages of a conversation, or the items that one is made of."""
MAX_PARTS = 1024
_MAX_IDS = 1 << 20
_MAX_PROMPTS = 2048
_MAX_BRACKETS = 1 << 18
_MAX_DETAILS = 1000
_SEEDS = 1 << 64


def _refuse(value: Any) -> Any:
    if value is None:
        return value
    raise PydanticCustomError("unsupported", "this server does not support it; leave it out")


Refused = Annotated[None, BeforeValidator(_refuse)]
"""A field of OpenAI's that only null is accepted for."""


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(value))
    if size > MAX_SCHEMA:
        raise PydanticCustomError(
            "too_long", f"a schema has at most {MAX_SCHEMA} characters, this one has {size}"
        )
    return value


Strings = Annotated[list[str], Field(fail_fast=True)]
# That there is something is checked later, with a message of its own: here it is only told.
Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
_ONE = {"minItems": 1}
Ids = Annotated[list[int], Field(fail_fast=True, max_length=_MAX_IDS, json_schema_extra=_ONE)]
Texts = Annotated[
    list[Text], Field(fail_fast=True, max_length=_MAX_PROMPTS, json_schema_extra=_ONE)
]
IdLists = Annotated[
    list[Ids], Field(fail_fast=True, max_length=_MAX_PROMPTS, json_schema_extra=_ONE)
]
Prompts = Text | Texts | Ids | IdLists
_ID = {"propertyNames": {"pattern": "^[0-9]{1,9}$"}}
Biases = Annotated[dict[int, float], Field(max_length=MAX_BIASES, json_schema_extra=_ID)]
JsonSchema = Annotated[dict[str, Any], AfterValidator(_bounded)]
Pattern = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)]
"""A regular expression, or a grammar."""
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
"""Of a function or a schema."""
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


def each_prompt(given: Prompts) -> Sequence[str | Sequence[int]]:
    """Each of the prompts, text or ids; `given` is not empty."""
    if isinstance(given, str) or isinstance(given[0], int):
        return [given]
    return given


class Fields(BaseModel):
    """JSON with exactly these fields, each of exactly its type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Body(Fields):
    """A whole body."""

    def check(self) -> None:
        """What no single field can tell; a RequestError."""


class StreamOptions(Fields):
    """`include_usage`: one more event at the end, with the tokens used."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class AnswerFields(Body):
    """What every request for an answer has. Ranges of sampling fields are checked by the engine."""

    model: str
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    # OpenAI has these in some of its requests; here they work in all.
    stop: str | Strings | None = None
    seed: Annotated[int, Field(ge=-(_SEEDS >> 1), lt=_SEEDS)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Biases | None = None
    # Extensions of Alpage.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    context_policy: ContextPolicy | None = None
    ignore_eos: bool | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = None
    regex: Pattern | None = None
    grammar: Pattern | None = None
    # Accepted because they say who asks, not what is answered.
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Metadata | None = None

    @property
    def stops(self) -> Sequence[str]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    def options(self) -> AnswerOptions:
        """The fields about the answer over OpenAI's defaults, temperature 1 and top_p 1."""
        given = {name: getattr(self, name) for name in _OPTIONS}
        options = {"temperature": 1.0, "top_p": 1.0}
        options |= {name: value for name, value in given.items() if value is not None}
        return cast(AnswerOptions, options)

    def check_form(self, *others: str) -> None:
        """Refuse two rules for the form of one answer; `others`: fields that are such rules."""
        rules = [*others, *(f for f in ("regex", "grammar") if getattr(self, f) is not None)]
        if len(rules) > 1:
            raise RequestError(
                f"{rules[0]} and {rules[1]} both say what the answer looks like; give one of them",
                param=rules[1],
            )


_OPTIONS = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "top_k",
    "min_p", "repetition_penalty", "context_policy", "ignore_eos", "seed", "timeout", "regex",
    "grammar",
)  # fmt: skip


class SharedFields(AnswerFields):
    """What chats and completions share beyond that."""

    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    @property
    def choices(self) -> int:
        """Answers for each prompt."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with an event about usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options works with stream=true only", param="stream_options")


M = TypeVar("M", bound=BaseModel)
_Place = tuple[int | str, ...]


def parse(model: type[M], body: bytes) -> M:
    """A checked request out of JSON, or a RequestError about the first mistake in it."""
    # A pair of brackets becomes an object a hundred times its size; texts have fewer than that.
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > _MAX_BRACKETS:
        raise RequestError(
            f"the body has {brackets} opening brackets; at most {_MAX_BRACKETS} are read",
            status=413,
            code="body_too_large",
        )
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _explained(model, body, error) from None


def _explained(model: type[BaseModel], body: bytes, error: ValidationError) -> RequestError:
    if error.error_count() > _MAX_DETAILS:  # each detail costs memory
        return RequestError(f"the body has {error.error_count()} mistakes")
    details = error.errors(include_url=False)
    if details[0]["type"] == "json_invalid":
        return RequestError(f"the body is not JSON: {details[0]['msg']}", code="invalid_json")
    data = from_json(body)
    if not isinstance(data, dict):
        return RequestError("the body must be a JSON object, not another kind of value")
    placed = [_kind_first(_place(data, detail), detail) for detail in details]
    # A union complains for each of its kinds; the one that got furthest knows best.
    deepest = [
        (place, detail)
        for place, detail in placed
        if not any(len(other) > len(place) and other[: len(place)] == place for other, _ in placed)
    ]
    # One that counted too many items had no other complaint.
    deepest = [(place, d) for place, d in placed if d["type"] == "too_long"] or deepest
    place, detail = deepest[0]
    reasons = dict.fromkeys(_reason(model, d) for p, d in deepest if p == place)
    return RequestError(
        f"{_path(place)}{_shown(detail)}: {' or '.join(reasons)}",
        param=_path(place) or None,
        code=_CODES.get(detail["type"], "invalid_value"),
    )


_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported": "unsupported_parameter",
    "literal_error": "unsupported_value",
    "union_tag_invalid": "unsupported_value",
}


def _kind_first(place: _Place, detail: ErrorDetails) -> tuple[_Place, ErrorDetails]:
    """A kind of object that is unknown is a mistake in its field `type`."""
    if detail["type"] == "union_tag_invalid":
        return (*place, "type"), {**detail, "input": detail["ctx"]["tag"]}
    return place, detail


def _place(data: Any, detail: ErrorDetails) -> _Place:
    """Where a mistake is, without the names of union members that pydantic puts into it."""
    location = detail["loc"]
    place: list[int | str] = []
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if _holds(data, part):
            place.append(part)
            data = data[part]
        elif last and detail["type"] == "missing":
            place.append(part)
    return tuple(place)


def _holds(data: Any, part: int | str) -> bool:
    if isinstance(data, Mapping):
        return part in data
    return isinstance(data, list) and isinstance(part, int) and part < len(data)


def _path(place: Sequence[int | str]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p:.80}" for p in place).lstrip(".")


def _shown(detail: ErrorDetails) -> str:
    if detail["type"] in ("missing", "extra_forbidden"):
        return ""
    text = json.dumps(detail["input"], ensure_ascii=False, default=repr)
    return f" is {text if len(text) <= 60 else text[:57] + '...'}"


def _reason(model: type[BaseModel], detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return "this field is required"
    if detail["type"] == "literal_error":
        expected = str(detail["ctx"]["expected"])
        return f"supported is {expected.replace('True', 'true').replace('False', 'false')}"
    if detail["type"] == "union_tag_invalid":
        return f"supported is {detail['ctx']['expected_tags']}"
    if detail["type"] != "extra_forbidden":
        return detail["msg"].replace("Input should be", "it should be")
    name = str(detail["loc"][-1])
    near = difflib.get_close_matches(name[:80], model.model_fields, 1)
    return "there is no such field" + (f"; did you mean {near[0]}?" if near else "")
