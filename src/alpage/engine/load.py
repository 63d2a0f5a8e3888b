"""From an open model to an engine at work: which runner, and how large its cache."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from alpage.core.config import LlamaConfig
from alpage.core.errors import CapacityError, ResourceError, UsageError
from alpage.core.types import KvType
from alpage.engine.draft import DraftModel
from alpage.engine.engine import Engine
from alpage.engine.memory import available_memory
from alpage.engine.policy import PolicyName, make_policy
from alpage.engine.protocol import Runner
from alpage.engine.scheduler import Limits
from alpage.engine.spill import Spill
from alpage.weights.source import ModelSource

EngineName = Literal["native", "torch"]

_DEFAULT_CONTEXT = 8192
_LEAST_CONTEXT = 512
_CONVERSATIONS = 4
_SHARE = 0.9
_PAGE = 16
_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens that one request may hold, and tokens that the cache of all requests holds."""

    context: int
    cache_tokens: int


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How many requests share an engine.

    `policy` orders them; `weights` of tenants are for "fair". `inter_token`: seconds between two
    tokens of an answer that 95 % of the steps should keep while prompts run beside. With
    `cache_folder` cached beginnings of prompts survive a restart there, up to `cache_folder_bytes`
    (native only).
    """

    policy: PolicyName = "first-come"
    weights: Mapping[str, float] = field(default_factory=dict)
    inter_token: float = 0.05
    cache_folder: Path | None = None
    cache_folder_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        make_policy(self.policy, self.weights)
        Limits(inter_token=self.inter_token)
        if self.cache_folder_bytes < 0:
            raise UsageError(
                f"cache_folder_bytes must be at least 0, not {self.cache_folder_bytes}"
            )


def load_engine(
    source: ModelSource,
    *,
    engine: EngineName = "native",
    threads: int | None = None,
    context: int | None = None,
    cache_tokens: int | None = None,
    isa: str | None = None,
    kv: KvType = "bf16",
    scheduling: Scheduling | None = None,
    draft: ModelSource | None = None,
    memory: int | None = None,
) -> Engine:
    """Load the weights of `source`, which may be closed afterwards, and start the engine.

    `context` and `cache_tokens` as in `plan_room`. `threads` and `isa` (native only) default to
    the machine's. `kv` (native only) is the type of the cache's numbers. `draft` (native only) is
    a smaller model of the same vocabulary that writes ahead. Weights and cache take at most
    `memory` bytes. Raises UsageError (arguments), CapacityError (memory), FormatError (damaged
    weights) or ResourceError (an engine that is not installed).
    """
    if engine not in ("native", "torch"):
        raise UsageError(f"engine is 'native' or 'torch', not {engine!r}")
    if engine == "torch" and kv != "bf16":
        raise UsageError(f"the engine 'torch' has no {kv} cache: use the native one, or no type")
    if engine == "torch" and draft is not None:
        raise UsageError("the engine 'torch' takes no draft model: use the native one")
    if threads is not None and not 1 <= threads <= 1024:
        raise UsageError(f"threads must be between 1 and 1024, not {threads}")
    bounds = [available_memory(), None if memory is None else math.ceil(memory / _SHARE)]
    room = _room(
        source, engine, kv, draft, context, cache_tokens,
        min((bound for bound in bounds if bound is not None), default=None),
    )  # fmt: skip
    # Runners are imported here: the native one loads the compiled core, the other one PyTorch.
    from alpage.engine.native import NativeRunner

    runner: Runner
    if engine == "torch":
        runner = _torch_runner(source, threads, room)
    else:
        runner = NativeRunner(
            source, threads=threads, context_tokens=room.cache_tokens, isa=isa, kv=kv
        )
    try:
        drafts = None
        if draft is not None:
            small = NativeRunner(draft, threads=threads, context_tokens=room.cache_tokens, isa=isa)
            drafts = DraftModel(small, min(source.config.vocab_size, draft.config.vocab_size))
        return _start(runner, room, scheduling or Scheduling(), drafts)
    except BaseException:
        runner.close()
        raise


def planned_bytes(
    source: ModelSource,
    *,
    engine: EngineName = "native",
    context: int | None = None,
    cache_tokens: int | None = None,
    kv: KvType = "bf16",
    draft: ModelSource | None = None,
    memory: int | None = None,
) -> int:
    """What weights and cache would take at the most, of at most `memory` bytes.

    Arguments and errors as those of `load_engine`, which asks the machine as well.
    """
    available = None if memory is None else math.ceil(memory / _SHARE)
    room = _room(source, engine, kv, draft, context, cache_tokens, available)
    per_token = round(source.config.kv_bytes_per_token(1) * _kv_bytes(source.config, engine, kv))
    weights = _weight_bytes(source, engine)
    if draft is not None:
        per_token += draft.config.kv_bytes_per_token(2)
        weights += _weight_bytes(draft, "native")
    needed = weights + room.cache_tokens * per_token
    return needed if memory is None else min(needed, memory)  # the last page may not be whole


def _room(
    source: ModelSource,
    engine: EngineName,
    kv: KvType,
    draft: ModelSource | None,
    context: int | None,
    cache_tokens: int | None,
    available: int | None,
) -> Room:
    return plan_room(
        source.config,
        weight_bytes=_weight_bytes(source, engine)
        + (_weight_bytes(draft, "native") if draft else 0),
        kv_bytes=_kv_bytes(source.config, engine, kv),
        draft=draft.config if draft else None,
        available=available,
        context=context,
        cache_tokens=cache_tokens,
    )


def _start(runner: Runner, room: Room, scheduling: Scheduling, drafts: DraftModel | None) -> Engine:
    from alpage.engine.native import sample_row

    try:
        spill = None
        if scheduling.cache_folder is not None:
            spill = Spill(
                scheduling.cache_folder, runner.cache_fingerprint, scheduling.cache_folder_bytes
            )
        return Engine(
            runner,
            context=room.context,
            limits=Limits(inter_token=scheduling.inter_token),
            policy=lambda: make_policy(scheduling.policy, scheduling.weights),
            sampler=sample_row,
            spill=spill,
            draft=drafts,
        )
    except BaseException:
        if drafts is not None:
            drafts.close()
        raise


def plan_room(
    config: LlamaConfig,
    *,
    weight_bytes: int,
    kv_bytes: float,
    available: int | None,
    context: int | None = None,
    cache_tokens: int | None = None,
    draft: LlamaConfig | None = None,
) -> Room:
    """Divide memory: what was asked for or a CapacityError, else what fits.

    `context` defaults to the model's, at most 8,192; `cache_tokens` to four times that (memory is
    taken as pages are used). `kv_bytes` is the size of one cached number with its share of a scale,
    `available` the bytes that may be used (None: unknown, so nothing is refused). A `draft` model
    caches as many tokens, as bfloat16.
    """
    if context is not None and not 1 <= context <= config.context_length:
        raise UsageError(
            f"context must be between 1 and the model's {config.context_length} tokens, "
            f"not {context}"
        )
    if cache_tokens is not None and cache_tokens < (context or 1):
        raise UsageError(f"cache_tokens must be at least {context or 1}, not {cache_tokens}")
    per_token = round(config.kv_bytes_per_token(1) * kv_bytes)
    if draft is not None:
        per_token += draft.kv_bytes_per_token(2)
    default = min(config.context_length, _DEFAULT_CONTEXT)
    wanted = cache_tokens or context or min(default, _LEAST_CONTEXT)
    fits = wanted if available is None else int(available * _SHARE - weight_bytes) // per_token
    if fits < wanted:
        raise CapacityError(
            f"the model needs {_size(weight_bytes)} for its weights and {_size(wanted * per_token)}"
            f" for a cache of {wanted} tokens, but {_size(available or 0)} are available; "
            "use a smaller context or model, or free memory"
        )
    if available is None:
        fits = _CONVERSATIONS * default
    context = context or min(default, cache_tokens or fits)
    tokens = cache_tokens or max(context, min(_CONVERSATIONS * context, fits))
    return Room(context, -(-tokens // _PAGE) * _PAGE)


def _weight_bytes(source: ModelSource, engine: EngineName) -> int:
    if engine != "native":
        return 4 * source.config.parameter_count  # PyTorch has them in float32
    from alpage.engine.native import packed_bytes

    return sum(map(packed_bytes, source.tensors.values()))


def _kv_bytes(config: LlamaConfig, engine: str, kv: KvType) -> float:
    if engine == "torch":
        return 4
    return 1 + _SCALE_BYTES / config.head_dim if kv == "int8" else 2


def _torch_runner(source: ModelSource, threads: int | None, room: Room) -> Runner:
    try:
        from alpage.engine.torch import TorchRunner
    except ModuleNotFoundError as error:
        raise ResourceError(
            "the engine 'torch' needs PyTorch, which is not installed: pip install alpage[train]"
        ) from error
    pages = room.cache_tokens // _PAGE
    return TorchRunner.load(source, page_count=pages, page_size=_PAGE, threads=threads)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
