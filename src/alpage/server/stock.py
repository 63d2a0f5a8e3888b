"""From a configuration to a pool: how each model is loaded, and which others are here."""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from alpage.catalogue.listing import Listing, list_models, show
from alpage.catalogue.listing import ModelCard as CatalogueCard
from alpage.catalogue.resolve import is_name, resolve
from alpage.core.errors import AlpageError, StorageError, UsageError
from alpage.core.settings import Settings, secret_from_environment
from alpage.engine.load import Scheduling, planned_bytes
from alpage.engine.memory import available_memory
from alpage.llama import Llama
from alpage.server.backends.protocol import ModelCard, ServedModel
from alpage.server.config import (
    AdapterConfig,
    Config,
    ModelConfig,
    ServerConfig,
    UpstreamConfig,
)
from alpage.server.offers import AdapterOffer, Discovery, Offer, Planned
from alpage.server.pool import Pool
from alpage.server.running import Queue
from alpage.weights.source import open_model

_SHARE = 0.9
_DEFAULT_CONTEXT = 8192
_LISTED_SECONDS = 5.0
_MOST_SECRET = 1 << 16


def pool_of(config: Config, paths: Mapping[str, Path], home: Path, settings: Settings) -> Pool:
    """A pool of everything that `config` offers; nothing is loaded yet.

    `paths`: the file or folder of each model and draft model that the configuration names. The
    first model is loaded at the start unless it says otherwise. Errors are UsageErrors, and those
    of models that cannot be opened.
    """
    _check_unique(config)
    server = config.server
    memory, queue = server.memory, Queue(server.queue, server.queue_tokens)
    if memory is None and (available := available_memory()) is not None:
        memory = int(_SHARE * available)
    makers = [_Maker(model, server, paths, home, settings) for model in config.models]
    offers = [maker.offer(first=number == 0) for number, maker in enumerate(makers)]
    upstreams: dict[str, ServedModel] = {}
    if config.upstreams:
        upstreams = {one.name: _upstream(one, queue) for one in config.upstreams}
    return Pool(
        upstreams,
        offers=offers,
        adapters=[_adapter(one, config.models) for one in config.adapters],
        memory=memory,
        queue=queue,
        crowd=server.crowd,
        discovery=LocalModels(server, home, settings) if server.any else None,
    )


def _check_unique(config: Config) -> None:
    names = config.names
    for name in names:
        if not name or len(name) > 200 or not name.isprintable():
            raise UsageError(f"a model's name is up to 200 printable characters, not {name!r:.80}")
        if names.count(name) > 1:
            raise UsageError(f"two models would both be called {name!r}: give one another name")


@dataclasses.dataclass(frozen=True, slots=True)
class _Maker:
    """How one model is opened and loaded."""

    config: ModelConfig
    server: ServerConfig
    paths: Mapping[str, Path]
    home: Path
    settings: Settings

    def offer(self, *, first: bool = False) -> Offer:
        """What the pool keeps of it; a model that is not loaded at the start is opened for that."""
        config, keep = self.config, self.config.keep_alive
        preload = first if config.preload is None else config.preload
        card = ModelCard(config.name, "local", int(time.time()), loaded=False)
        if not preload:
            card = _told(card, show(config.model, self.home), config.context)
        return Offer(
            card=card,
            plan=self.plan,
            keep=self.server.keep_alive if keep is not None and math.isnan(keep) else keep,
            pin=config.pin,
            preload=preload,
        )

    def plan(self, most: int | None) -> Planned:
        """How to load it into at most so many bytes, and how many it takes."""
        config = self.config
        path = self.paths[config.model]
        draft = None if config.draft is None else self.paths[config.draft]
        with open_model(path) as source:
            plan = functools.partial(
                planned_bytes, source, engine=config.engine, context=config.context,
                cache_tokens=config.cache_tokens, kv=config.kv_type, memory=most,
            )  # fmt: skip
            if draft is None:
                needed = plan()
            else:
                with open_model(draft) as small:
                    needed = plan(draft=small)
        return Planned(needed, functools.partial(self.load, path, draft, needed))

    def load(self, path: Path, draft: Path | None, memory: int) -> Llama:
        """The model, loaded."""
        config, server = self.config, self.server
        scheduling = Scheduling(
            policy=server.policy,
            inter_token=server.inter_token,
            cache_folder=server.cache_folder if config.engine == "native" else None,
            cache_folder_bytes=server.cache_folder_size,
        )
        return Llama.load(
            path, engine=config.engine, threads=config.threads, context=config.context,
            cache_tokens=config.cache_tokens, kv_type=config.kv_type, scheduling=scheduling,
            draft=draft, memory=memory, settings=self.settings,
        )  # fmt: skip


def _told(card: ModelCard, found: CatalogueCard, context: int | None) -> ModelCard:
    """`card` with what the catalogue, or the file itself, knows of the model."""
    longest = found.context_length
    if longest is not None:
        context = min(context or _DEFAULT_CONTEXT, longest)
    return dataclasses.replace(
        card, context=context, authors=found.lineage.authors, licence=found.licence
    )


def _adapter(config: AdapterConfig, models: Sequence[ModelConfig]) -> AdapterOffer:
    names = [model.name for model in models]
    base = config.base or (names[0] if names else "")
    if base not in names:
        raise UsageError(
            f"the adapter {config.name} needs a base among the models of this machine, "
            f"{', '.join(names) or 'of which there is none'}; not {base!r:.80}"
        )
    if not config.folder.is_dir():
        raise UsageError(f"the adapter {config.name} is no folder: {config.folder}")
    return AdapterOffer(config.name, base, config.folder, int(time.time()))


def _upstream(config: UpstreamConfig, queue: Queue) -> ServedModel:
    from alpage.server.backends.fleet import Endpoints  # few servers need an HTTP client
    from alpage.server.backends.upstream import UpstreamModel

    endpoints = Endpoints(
        name=config.name, urls=config.urls, key=_key(config), connect=config.connect,
        first_byte=config.first_byte, idle=config.idle, attempts=config.attempts,
        failures=config.failures, rest=config.rest, most_bytes=config.answer_size,
        most_line=config.answer_size, authorities=config.authorities,
    )  # fmt: skip
    return UpstreamModel(
        config.name, config.model or config.name, endpoints, extensions=config.extensions,
        context=config.context, authors=config.authors, licence=config.licence, queue=queue,
    )  # fmt: skip


def _key(config: UpstreamConfig) -> str | None:
    """The secret that the other servers want to see."""
    if config.key_variable is not None:
        return _sendable(secret_from_environment(config.key_variable), config.name)
    if config.key_file is None:
        return None
    try:
        with config.key_file.open("rb") as file:
            key = file.read(_MOST_SECRET).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the key of {config.name}: {error}") from None
    return _sendable(key, config.name)


def _sendable(key: str, name: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"the key of {name} is empty or no single line of plain text")
    return key


class LocalModels(Discovery):
    """Every model on this machine that `alpage list --all` shows, under the name that it shows."""

    def __init__(self, server: ServerConfig, home: Path, settings: Settings) -> None:
        self._server = server
        self._home = home
        self._settings = settings
        self._created = int(time.time())
        self._cards: list[ModelCard] = []
        self._listed = -math.inf

    def cards(self) -> list[ModelCard]:
        """What is there; seconds old at most."""
        if time.monotonic() - self._listed > _LISTED_SECONDS:
            self._cards = [self._card(found) for found in self._installed()]
            self._listed = time.monotonic()
        return self._cards

    def find(self, name: str) -> Offer | None:
        """The model of exactly that name."""
        if not self._is_here(name):  # soon known, so that made-up names cost little
            return None
        found = next((one for one in self._installed() if one.name == name), None)
        if found is None:
            return None
        config = ModelConfig(model=name, name=name, preload=False)
        paths = {name: resolve(name, self._home)}
        offer = _Maker(config, self._server, paths, self._home, self._settings).offer()
        return dataclasses.replace(offer, card=self._card(found))

    def _is_here(self, name: str) -> bool:
        """Whether it is a name, never a path, under which something can be found here."""
        try:
            return is_name(name, self._home) and resolve(name, self._home).exists()
        except AlpageError:
            return False

    def _installed(self) -> list[Listing]:
        try:
            listed = list_models(self._home, ollama=True)
        except StorageError:
            return []
        return [one for one in listed if one.state == "installed"]

    def _card(self, found: Listing) -> ModelCard:
        card = ModelCard(found.name, "local", self._created, loaded=False)
        return card if found.card is None else _told(card, found.card, None)
