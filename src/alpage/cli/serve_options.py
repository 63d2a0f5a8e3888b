"""The options of `alpage serve`. None is what was not given: the configuration's, or a default."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from alpage.catalogue.entries import DEFAULT_MODEL

_SERVER = "Server"
_MODELS = "Models"
_LOAD = "Under load"
_ACCESS = "Who can ask"
_ENGINE = "Engine, for every model"
_WATCHING = "Watching"

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Names of the catalogue, GGUF files, or folders in Hugging Face's layout. "
        f"Default: those of the configuration, or {DEFAULT_MODEL}.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A TOML file with all that these options say and more: docs/serve-config.md.",
        rich_help_panel=_SERVER,
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Address to listen on. Default: 127.0.0.1, which only this machine can reach. Others "
        "need keys: alpage keys create.",
        rich_help_panel=_SERVER,
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Port to listen on; 0 takes any free one. Default: 8080.",
        rich_help_panel=_SERVER,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Say where the server listens as one line of JSON, for programs.",
        rich_help_panel=_SERVER,
    ),
]
Grace = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS",
        help="Time for answers under way when the server ends. Default: 5.",
        rich_help_panel=_SERVER,
    ),
]
AnyModel = Annotated[
    bool | None,
    typer.Option(
        "--any",
        help="Offer every model that is on this machine, loaded when it is asked for.",
        show_default=False,
        rich_help_panel=_MODELS,
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME=FOLDER[@BASE]",
        help="Offer a LoRA adapter as a model of its own. Can be repeated.",
        rich_help_panel=_MODELS,
    ),
]
Preload = Annotated[
    bool,
    typer.Option("--preload", help="Load all of them at the start.", rich_help_panel=_MODELS),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="The most that all models may take, such as 8GB. Default: nine tenths of what is free "
        "at the start.",
        rich_help_panel=_MODELS,
    ),
]
KeepAlive = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="How long a model that nobody asks stays loaded, such as 10m, or forever. "
        "Default: 30m.",
        rich_help_panel=_MODELS,
    ),
]
PolicyOption = Annotated[
    Literal["fair", "priority", "first-come"] | None,
    typer.Option(
        "--policy",
        help="Who goes first: fair between tenants by their keys' weights (the default), by the "
        "keys' priority, or in order.",
        rich_help_panel=_LOAD,
    ),
]
QueueRequests = Annotated[
    int | None,
    typer.Option(
        "--queue",
        metavar="N",
        help="The most requests that wait at one model; others are told to come back. "
        "Default: 512.",
        rich_help_panel=_LOAD,
    ),
]
QueueTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="The most tokens in their prompts. Default: 2000000.",
        rich_help_panel=_LOAD,
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS",
        help="Time after which any answer ends. Default: none.",
        rich_help_panel=_LOAD,
    ),
]
Stall = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS",
        help="Time after which a client that reads nothing is left. Default: 30.",
        rich_help_panel=_LOAD,
    ),
]
InterToken = Annotated[
    float | None,
    typer.Option(
        metavar="MS",
        help="Milliseconds between two tokens of an answer that prompts beside it may cost at "
        "most, 95 times of 100. Default: 50.",
        rich_help_panel=_LOAD,
    ),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--origin",
        metavar="ORIGIN",
        help="Pages of this origin, such as https://app.example, may ask. Can be repeated.",
        rich_help_panel=_ACCESS,
    ),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        metavar="NAME",
        help="A name that clients may call this server by. Can be repeated.",
        rich_help_panel=_ACCESS,
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--tls-certificate",
        metavar="FILE",
        help="Encrypt, with this certificate (PEM, followed by those above it).",
        rich_help_panel=_ACCESS,
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(
        "--tls-key", metavar="FILE", help="The certificate's key.", rich_help_panel=_ACCESS
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
Engine = Annotated[
    Literal["native", "torch"] | None,
    typer.Option(
        help="native, or torch: the slow, plain reference (needs PyTorch). Default: native.",
        rich_help_panel=_ENGINE,
    ),
]
KvType = Annotated[
    Literal["bf16", "int8"] | None,
    typer.Option(
        "--kv-type",
        help="Numbers of the key/value cache: int8 takes half the memory, a little less exactly. "
        "Default: bf16.",
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
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep cached beginnings of prompts there, so that they survive a restart.",
        rich_help_panel=_ENGINE,
    ),
]
CacheMegabytes = Annotated[
    int | None,
    typer.Option(
        metavar="MB",
        help="The most that folder may hold. Default: 1024.",
        rich_help_panel=_ENGINE,
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write a line of JSON for each request there; - is standard error.",
        rich_help_panel=_WATCHING,
    ),
]
LogPrompts = Annotated[
    bool | None,
    typer.Option(
        "--log-prompts/--no-log-prompts",
        help="Prompts and answers go into the log and the traces, too.",
        rich_help_panel=_WATCHING,
        show_default=False,
    ),
]
TracesUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Send OpenTelemetry traces there, over OTLP/HTTP. Needs alpage[traces].",
        rich_help_panel=_WATCHING,
    ),
]
CacheTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Tokens that all conversations together may hold. Default: four contexts, as memory "
        "allows.",
        rich_help_panel=_ENGINE,
        show_default=False,
    ),
]
