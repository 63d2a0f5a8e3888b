"""Fields that Ollama's requests share. As in `openai.fields`, nothing is ignored in silence."""

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from alpage.core.types import ContextPolicy
from alpage.llama import AnswerOptions
from alpage.server.openai.fields import Body, Fields, Strings

_DURATION = re.compile(r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|[-+]?0")
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(\D+)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_LONGEST_DURATION = 64
_SEEDS = 1 << 64


def _empty(value: Any) -> Any:
    if value is None or value == "" or value == [] or value is False:
        return None
    raise PydanticCustomError("unsupported", "this server does not support it; leave it out")


Empty = Annotated[None, BeforeValidator(_empty)]
"""A field of Ollama's that asks for nothing where it is null, "", [] or false; else refused."""


def only(wanted: float) -> BeforeValidator:
    """A validator that takes the one value which changes no answer."""

    def check(value: Any) -> Any:
        if value is None or (
            value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
        ):
            return value
        shown = "true" if wanted is True else "false" if wanted is False else f"{wanted:g}"
        raise PydanticCustomError(
            "unsupported", "supported is {shown}, which changes no answer", {"shown": shown}
        )

    return BeforeValidator(check)


def seconds_of(value: float | str) -> float:
    """A duration, a number of seconds or text such as "1h30m", in seconds; negative: for ever.

    ValueError for any other text.
    """
    if isinstance(value, str):
        if len(value) > _LONGEST_DURATION or not _DURATION.fullmatch(value):
            raise ValueError('it should be seconds, or a duration such as "5m" or "1h30m"')
        total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
        value = -total if value.startswith("-") else total
    return math.inf if value < 0 else value


def _duration(value: float | str) -> float | str:
    try:
        seconds_of(value)
    except ValueError as error:
        raise PydanticCustomError("duration", "{reason}", {"reason": str(error)}) from None
    return value


def _some(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("nothing", "it should be at least 1, or -1 for no limit")
    return value


class OllamaOptions(Fields):
    """`options`: what is honoured; what says how a server works, not what it answers; the rest."""

    seed: Annotated[int, Field(ge=-(_SEEDS >> 1), lt=_SEEDS)] | None = None
    num_predict: Annotated[int, Field(ge=-2), AfterValidator(_some)] | None = None
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    stop: str | Strings | None = None
    # Where and how the work is done: `alpage serve` decides it for all requests.
    numa: bool | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    low_vram: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    # Off, or as it is here anyway: no other value.
    f16_kv: Annotated[bool | None, only(True)] = None
    logits_all: Annotated[bool | None, only(False)] = None
    vocab_only: Annotated[bool | None, only(False)] = None
    embedding_only: Annotated[bool | None, only(False)] = None
    penalize_newline: Annotated[bool | None, only(True)] = None
    tfs_z: Annotated[float | None, only(1)] = None
    typical_p: Annotated[float | None, only(1)] = None
    mirostat: Annotated[int | None, only(0)] = None
    # Of what is off.
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    num_keep: int | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def penalties(self) -> dict[str, float]:
        """Those that are on, under the names of `SamplingParams`."""
        given = {
            "repetition_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        off = {"repetition_penalty": 1.0}
        return {k: v for k, v in given.items() if v is not None and v != off.get(k, 0.0)}


DEFAULTS: AnswerOptions = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's own. Its penalty of what the last 64 tokens repeat does not exist here."""


def answer_options(options: OllamaOptions, policy: ContextPolicy) -> AnswerOptions:
    """The sampling options over `DEFAULTS`."""
    chosen = DEFAULTS.copy()
    if options.temperature is not None:
        chosen["temperature"] = options.temperature
    if options.top_k is not None:
        chosen["top_k"] = options.top_k
    if options.top_p is not None:
        chosen["top_p"] = options.top_p
    if options.min_p is not None:
        chosen["min_p"] = options.min_p
    if options.repeat_last_n != 0:
        chosen.update(options.penalties)  # type: ignore[typeddict-item]
    if options.num_predict is not None and options.num_predict > 0:
        chosen["max_tokens"] = options.num_predict
    if options.seed is not None and options.seed != -1:  # which is Ollama's word for any
        chosen["seed"] = options.seed
    if policy != "stop":
        chosen["context_policy"] = policy
    return chosen


Duration = Annotated[float | str, AfterValidator(_duration)]


class Asking(Body):
    """What requests for answers and for vectors share."""

    model: Annotated[str, Field(min_length=1)]
    keep_alive: Duration | None = None
    options: OllamaOptions | None = None

    @property
    def keep_seconds(self) -> float | None:
        """How long the model stays loaded afterwards; infinity: for ever; None: as usual."""
        return None if self.keep_alive is None else seconds_of(self.keep_alive)

    @property
    def chosen(self) -> OllamaOptions:
        """The options, those that are not given included."""
        return self.options or OllamaOptions()
