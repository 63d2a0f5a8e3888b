"""`alpage serve`: models over HTTP."""

import contextlib
import os
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from alpage.catalogue.entries import DEFAULT_MODEL
from alpage.catalogue.resolve import is_name
from alpage.cli.loading import load
from alpage.cli.options import Context, Draft, Engine, KvType, Threads
from alpage.cli.output import note, say
from alpage.core.errors import UsageError
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.engine.load import Scheduling
from alpage.llama import Llama
from alpage.server.process import open_socket, serve, url_of, warning

_SERVER = "Server"

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Names of the catalogue, GGUF files, or folders in Hugging Face's layout. "
        f"Default: {DEFAULT_MODEL}.",
        show_default=False,
    ),
]
Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Address to listen on. Default: 127.0.0.1, which only this machine can reach.",
        rich_help_panel=_SERVER,
        show_default=False,
    ),
]
Port = Annotated[
    int,
    typer.Option(
        metavar="N", help="Port to listen on; 0 takes any free one.", rich_help_panel=_SERVER
    ),
]
InterToken = Annotated[
    float,
    typer.Option(
        metavar="MS",
        help="Milliseconds between two tokens of an answer that prompts beside it may cost at "
        "most, 95 times of 100.",
        rich_help_panel=_SERVER,
    ),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep cached beginnings of prompts there, so that they survive a restart.",
        rich_help_panel=_SERVER,
    ),
]
CacheMegabytes = Annotated[
    int,
    typer.Option(metavar="MB", help="The most that folder may hold.", rich_help_panel=_SERVER),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Say where the server listens as one line of JSON, for programs.",
        rich_help_panel=_SERVER,
    ),
]


def command(
    models: Models = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    threads: Threads = None,
    context: Context = None,
    engine: Engine = "native",
    kv_type: KvType = "bf16",
    draft: Draft = None,
    inter_token: InterToken = 50.0,
    cache_folder: CacheFolder = None,
    cache_megabytes: CacheMegabytes = 1024,
    json: Json = False,
) -> None:
    """Serve models over HTTP, with an OpenAI-compatible API, until Ctrl-C.

    A model is called by its name in the catalogue, or by its file's name without the ending.
    """
    wanted = names_of(models or [DEFAULT_MODEL])
    scheduling = Scheduling(
        inter_token=inter_token / 1000,
        cache_folder=cache_folder,
        cache_folder_bytes=cache_megabytes * 1_000_000,
    )
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(open_socket(host, port))  # a taken port is known at once
        if told := warning(host):
            note(f"alpage: {told}")
        loaded: dict[str, Llama] = {}
        for name, model in wanted.items():
            llm = load(
                model, engine=engine, threads=threads, context=context, kv_type=kv_type,
                scheduling=scheduling, draft=draft,
            )  # fmt: skip
            loaded[name] = stack.enter_context(llm)
        url = url_of(sock, host)

        def on_start() -> None:
            if json:
                say(dumps({"url": url, "models": list(loaded), "pid": os.getpid()}))
                return
            say(f"Serving {', '.join(loaded)} at {url}/v1 (OpenAI's API). Ctrl-C ends it.")

        serve(loaded, sock, host=host, on_start=on_start)


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
