"""What a server is told to do: a TOML file, over which a command's own options go.

    [server]       one table: where it listens, who may ask, how much it takes
    [[model]]      one for each model of this machine
    [[adapter]]    one for each LoRA adapter
    [[upstream]]   one for each model that other servers run

docs/serve-config.md describes every key. Secrets stand in files or environment variables, never
here. Nothing unknown is passed over: it is a UsageError, with the nearest name that is known.
"""

import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from alpage.core.errors import UsageError
from alpage.core.types import KvType
from alpage.engine.load import EngineName
from alpage.engine.policy import PolicyName
from alpage.server.offers import KEEP_SECONDS
from alpage.server.running import CROWD

_MOST_BYTES = 1 << 20
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]i?)?B?", re.IGNORECASE)
_TIME = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(ms|s|m|h|d)?")
_PREFIXES = "KMGT"
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def size_of(text: object) -> int:
    """Bytes out of a whole number or a text such as "8GB" or "512MiB"; a UsageError."""
    if type(text) is int and text > 0:
        return text
    found = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise UsageError(f"a size is written as 8GB, 512MiB or in bytes, not {text!r:.80}")
    prefix = (found[2] or "").upper()
    base = 1024 if prefix.endswith("I") else 1000
    power = _PREFIXES.index(prefix[0]) + 1 if prefix else 0
    size = int(float(found[1]) * base**power)
    if size < 1:
        raise UsageError(f"a size must be above 0 bytes, not {text!r:.80}")
    return size


def seconds_of(text: object) -> float:
    """Seconds out of a number or a text such as "30m" or "1.5h"; a UsageError."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        if 0 <= text < math.inf:
            return float(text)
    elif isinstance(text, str) and (found := _TIME.fullmatch(text.strip())):
        return float(found[1]) * _SECONDS[found[2]]
    raise UsageError(f"a time is written as 30s, 10m, 1.5h or in seconds, not {text!r:.80}")


def keep_of(text: object) -> float | None:
    """Seconds as `seconds_of`, or None for "forever"."""
    return None if text == "forever" else seconds_of(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where it listens, who may ask, and how much it takes. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    policy: PolicyName = "fair"
    queue: int = 512
    queue_tokens: int = 2_000_000
    timeout: float | None = field(default=None, metadata={"read": seconds_of})
    grace: float = field(default=5.0, metadata={"read": seconds_of})
    stall: float = field(default=30.0, metadata={"read": seconds_of})
    memory: int | None = field(default=None, metadata={"read": size_of})
    keep_alive: float | None = field(default=KEEP_SECONDS, metadata={"read": keep_of})
    any: bool = False
    inter_token: float = field(default=0.05, metadata={"read": seconds_of})
    database: str | None = None
    log: Path | None = None
    log_prompts: bool = False
    traces: str | None = None
    cache_folder: Path | None = None
    cache_folder_size: int = field(default=1_024_000_000, metadata={"read": size_of})
    crowd: int = CROWD
    keep_responses: bool = True
    responses_size: int = field(default=64 << 20, metadata={"read": size_of})
    responses_time: float = field(default=86_400.0, metadata={"read": seconds_of})

    def __post_init__(self) -> None:
        for name in ("timeout", "stall"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be above 0 seconds, not {value:g}")
        if self.crowd < 0:
            raise UsageError(f"crowd must be 0, for never, or more, not {self.crowd}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model of this machine; `model` is a name of `alpage list`, or a path."""

    model: str
    name: str = ""
    engine: EngineName = "native"
    threads: int | None = None
    context: int | None = None
    cache_tokens: int | None = None
    kv_type: KvType = "bf16"
    draft: str | None = None
    preload: bool | None = None
    pin: bool = False
    keep_alive: float | None = field(default=math.nan, metadata={"read": keep_of})
    """NaN: as the server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """A LoRA adapter of one of the models; without `base`, of the first."""

    name: str
    folder: Path
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamConfig:
    """A model that other servers run, which call it `model`; as `fleet.Endpoints`."""

    name: str
    urls: tuple[str, ...]
    model: str = ""
    key_file: Path | None = None
    key_variable: str | None = None
    extensions: tuple[str, ...] = ()
    context: int | None = None
    authors: str | None = None
    licence: str | None = None
    authorities: Path | None = None
    connect: float = field(default=5.0, metadata={"read": seconds_of})
    first_byte: float = field(default=300.0, metadata={"read": seconds_of})
    idle: float = field(default=60.0, metadata={"read": seconds_of})
    attempts: int = 3
    failures: int = 5
    rest: float = field(default=10.0, metadata={"read": seconds_of})
    answer_size: int = field(default=64 << 20, metadata={"read": size_of})

    def __post_init__(self) -> None:
        if self.key_file is not None and self.key_variable is not None:
            raise UsageError(f"{self.name}: give key_file or key_variable, not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it."""

    server: ServerConfig = ServerConfig()
    models: tuple[ModelConfig, ...] = ()
    adapters: tuple[AdapterConfig, ...] = ()
    upstreams: tuple[UpstreamConfig, ...] = ()

    @property
    def names(self) -> list[str]:
        """What clients call all of them; models of `any` are not among them."""
        return [
            *(model.name for model in self.models),
            *(adapter.name for adapter in self.adapters),
            *(upstream.name for upstream in self.upstreams),
        ]

    @classmethod
    def read(cls, path: Path) -> "Config":
        """A file's; paths in it are relative to its folder. A UsageError for what is wrong."""
        try:
            with path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
            if len(text) > _MOST_BYTES:
                raise UsageError(f"{path} is larger than 1 MiB: it is no configuration")
            found = tomllib.loads(text.decode())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"cannot read the configuration {path}: {error}") from None
        return cls.of(found, path.resolve().parent)

    @classmethod
    def of(cls, found: Mapping[str, Any], folder: Path) -> "Config":
        """The configuration in the tables of a TOML document."""
        _check_names(found, ("server", "model", "adapter", "upstream"), "")
        return cls(
            server=_made(ServerConfig, found.get("server", {}), "[server]", folder),
            models=_list(ModelConfig, found, "model", folder),
            adapters=_list(AdapterConfig, found, "adapter", folder),
            upstreams=_list(UpstreamConfig, found, "upstream", folder),
        )


C = TypeVar("C")


def _list(kind: type[C], found: Mapping[str, Any], name: str, folder: Path) -> tuple[C, ...]:
    tables = found.get(name, [])
    if not isinstance(tables, list):
        raise UsageError(f"{name} is written as [[{name}]], once for each")
    return tuple(
        _made(kind, table, f"[[{name}]] number {number}", folder)
        for number, table in enumerate(tables, 1)
    )


def _made(kind: type[C], table: Any, where: str, folder: Path) -> C:
    if not isinstance(table, dict):
        raise UsageError(f"{where} is no table")
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    _check_names(table, known, f" in {where}")
    for name, one in known.items():
        if one.default is dataclasses.MISSING and name not in table:
            raise UsageError(f"{where} needs {name}")
    try:
        return kind(**{name: _value(known[name], value, folder) for name, value in table.items()})
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _check_names(table: Mapping[str, Any], known: typing.Iterable[str], where: str) -> None:
    names = list(known)
    for name in table:
        if name not in names:
            near = difflib.get_close_matches(name[:80], names, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(names)}"
            raise UsageError(f"there is no key {name!r:.80}{where}; {hint}")


def _value(one: "dataclasses.Field[Any]", value: Any, folder: Path) -> Any:
    """A value of the field's type, or a UsageError that says what is wrong."""
    read: Callable[[object], Any] | None = one.metadata.get("read")
    if read is not None:
        try:
            return read(value)
        except UsageError as error:
            raise UsageError(f"{one.name}: {error}") from None
    kind: Any = one.type
    if isinstance(kind, types.UnionType):
        (kind,) = (k for k in typing.get_args(kind) if k is not type(None))
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if choices:
        if value in choices:
            return value
        raise UsageError(f"{one.name} is one of {', '.join(map(repr, choices))}, not {value!r:.80}")
    if kind is Path and isinstance(value, str) and value:
        if one.name == "log" and value == "-":
            return Path(value)  # standard error
        return folder / Path(value).expanduser()
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise UsageError(f"{one.name} is a list of texts, not {value!r:.80}")
    if type(value) is kind:
        return _placed(value, folder) if one.name in ("model", "draft") else value
    names = {str: "a text", int: "a whole number", bool: "true or false", Path: "a path"}
    raise UsageError(f"{one.name} is {names[kind]}, not {value!r:.80}")


def _placed(model: str, folder: Path) -> str:
    """A name as it is; what begins like a path, relative to the file's folder."""
    if model.startswith(("./", "../", "~")):
        return str(folder / Path(model).expanduser())
    return model
