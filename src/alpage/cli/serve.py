"""`alpage serve`: models over HTTP."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Any

from alpage.catalogue.entries import DEFAULT_MODEL
from alpage.catalogue.resolve import is_name
from alpage.cli.loading import ready
from alpage.cli.options import DatabaseUrl
from alpage.cli.output import note, say
from alpage.cli.serve_options import (
    Adapters,
    AllowedHosts,
    AnyModel,
    CacheFolder,
    CacheMegabytes,
    CacheTokens,
    Certificate,
    ConfigFile,
    Context,
    Draft,
    Engine,
    Grace,
    Host,
    InterToken,
    Json,
    KeepAlive,
    KvType,
    LogFile,
    LogPrompts,
    Memory,
    Models,
    Origins,
    PolicyOption,
    Port,
    Preload,
    QueueRequests,
    QueueTokens,
    Stall,
    Threads,
    Timeout,
    TlsKey,
    TracesUrl,
)
from alpage.core.errors import UsageError
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.server.accounts import Accounts
from alpage.server.config import (
    AdapterConfig,
    Config,
    ModelConfig,
    keep_of,
    seconds_of,
    size_of,
)
from alpage.server.observe.event import log_event
from alpage.server.operation import accounts_of, operated
from alpage.server.process import open_socket, serve, url_of, warning
from alpage.server.stock import pool_of


def command(
    models: Models = None,
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    any_model: AnyModel = None,
    adapter: Adapters = None,
    preload: Preload = False,
    memory: Memory = None,
    keep_alive: KeepAlive = None,
    policy: PolicyOption = None,
    queue: QueueRequests = None,
    queue_tokens: QueueTokens = None,
    timeout: Timeout = None,
    grace: Grace = None,
    stall: Stall = None,
    origin: Origins = None,
    allowed_host: AllowedHosts = None,
    tls_certificate: Certificate = None,
    tls_key: TlsKey = None,
    database: DatabaseUrl = None,
    log: LogFile = None,
    log_prompts: LogPrompts = None,
    traces: TracesUrl = None,
    threads: Threads = None,
    context: Context = None,
    cache_tokens: CacheTokens = None,
    engine: Engine = None,
    kv_type: KvType = None,
    draft: Draft = None,
    inter_token: InterToken = None,
    cache_folder: CacheFolder = None,
    cache_megabytes: CacheMegabytes = None,
    json: Json = False,
) -> None:
    """Serve models over HTTP, with an OpenAI-compatible API, until Ctrl-C.

    A model is called by its name in the catalogue, or by its file's name without the ending. The
    first is loaded at the start, others when they are asked for. Options win over the --config.
    """
    server = {
        "host": host, "port": port, "any": any_model, "policy": policy, "queue": queue,
        "queue_tokens": queue_tokens, "timeout": _read(seconds_of, timeout),
        "grace": _read(seconds_of, grace), "stall": _read(seconds_of, stall),
        "memory": _read(size_of, memory), "origins": _tuple(origin),
        "allowed_hosts": _tuple(allowed_host), "tls_certificate": tls_certificate,
        "tls_key": tls_key, "inter_token": inter_token and inter_token / 1000,
        "cache_folder": cache_folder, "database": database, "log": log,
        "log_prompts": log_prompts, "traces": traces,
        "cache_folder_size": cache_megabytes and cache_megabytes * 1_000_000,
    }  # fmt: skip
    if keep_alive is not None:
        server["keep_alive"] = keep_of(keep_alive)
    each = {"threads": threads, "context": context, "cache_tokens": cache_tokens,
            "engine": engine, "kv_type": kv_type, "draft": draft,
            "preload": preload or None}  # fmt: skip
    told = Config() if config is None else Config.read(config)
    _run(completed(told, models or [], adapter or [], server, each), json)


def _read(reader: Any, text: str | None) -> Any:
    return None if text is None else reader(text)


def _tuple(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return tuple(values) if values else None


def completed(
    config: Config,
    models: Sequence[str],
    adapters: Sequence[str],
    server: Mapping[str, Any],
    each: Mapping[str, Any],
) -> Config:
    """`config` with a command's own arguments over it; None in them says nothing.

    `server` has fields of ServerConfig, `each` those of every ModelConfig. Every model gets a name.
    """
    given = {name: value for name, value in server.items() if value is not None}
    if "keep_alive" in server:
        given["keep_alive"] = server["keep_alive"]  # where None is for ever
    changes = {name: value for name, value in each.items() if value is not None}
    wanted = [ModelConfig(model=model) for model in models] or list(config.models)
    if not wanted and not config.upstreams:
        wanted = [ModelConfig(model=DEFAULT_MODEL)]
    unnamed = iter(names_of([model.model for model in wanted if not model.name]))
    named = [replace(m, name=m.name or next(unnamed), **changes) for m in wanted]
    return replace(
        config,
        server=replace(config.server, **given),
        models=tuple(named),
        adapters=(*config.adapters, *map(_adapter, adapters)),
    )


def _adapter(text: str) -> AdapterConfig:
    name, _, rest = text.partition("=")
    folder, _, base = rest.rpartition("@") if "@" in rest else (rest, "", "")
    if not name or not folder:
        raise UsageError(f"--adapter is NAME=FOLDER or NAME=FOLDER@BASE, not {text!r:.200}")
    return AdapterConfig(name=name, folder=Path(folder), base=base)


def _run(config: Config, json: bool) -> None:
    settings = Settings.from_environment()
    host = config.server.host
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(open_socket(host, config.server.port))  # a taken port is told
        accounts = stack.enter_context(accounts_of(config, settings))
        drafts = [model.draft for model in config.models if model.draft is not None]
        paths = {
            model: ready(model, settings) for model in (*(m.model for m in config.models), *drafts)
        }
        pool = pool_of(config, paths, cache_home(settings), settings)
        stack.callback(pool.close)
        around = stack.enter_context(operated(config, pool, accounts))
        encrypted = around.certificate is not None
        if told := warning(host, encrypted=encrypted):
            note(f"alpage: {told}")
        pool.preload()
        url = url_of(sock, host, encrypted=encrypted)

        def on_start() -> None:
            log_event("server_started", url=url, models=config.names)
            if json:
                say(dumps({"url": url, "models": config.names, "pid": os.getpid()}))
                return
            for line in _welcome(url, config.names, accounts):
                say(line)

        serve(around, sock, on_start=on_start)
        log_event("server_ended", url=url)


def _welcome(url: str, names: Sequence[str], accounts: Accounts | None) -> Iterator[str]:
    """What a person is told once requests are answered."""
    yield f"Serving {', '.join(names)} at {url}"
    yield f"  a page to talk to   {url}/"
    yield f"  for programs        {url}/v1 (OpenAI's API), Anthropic's, and Ollama's at /api"
    if accounts is not None and accounts.has_keys:
        yield "Keys are asked for: alpage keys list. Ctrl-C ends it."
    else:
        yield "No key is configured, so only this machine can ask. Ctrl-C ends it."


def names_of(models: list[str]) -> dict[str, str]:
    """What clients call each model; a UsageError where two would have one name."""
    named: dict[str, str] = {}
    home = cache_home(Settings.from_environment())
    for model in models:
        path = Path(model)
        name = model if is_name(model, home) else path.resolve().name
        name = name.removesuffix(".gguf")
        if name in named:
            raise UsageError(
                f"{named[name]} and {model} would both be called {name!r}; serve one of them, or "
                "rename a file"
            )
        named[name] = model
    return named
