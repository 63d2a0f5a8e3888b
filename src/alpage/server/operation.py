"""All that an operator's server has beside its models: accounts, metrics, a log, traces."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from alpage.core.errors import StorageError, UsageError
from alpage.core.settings import Settings
from alpage.engine.stats import EngineStats
from alpage.server.accounts import Accounts
from alpage.server.accounts.database import default_url
from alpage.server.app import Surroundings
from alpage.server.backends.local import LocalModel
from alpage.server.config import Config
from alpage.server.door import KeyDoor
from alpage.server.observe.logs import RequestLog, logging_to
from alpage.server.observe.metrics import Metrics
from alpage.server.observe.observer import Observer, Observers
from alpage.server.observe.traces import Traces
from alpage.server.pool import Pool
from alpage.server.process import check_exposed, surroundings_of

NO_DATABASE = "none"
"""In the place of a database's address: no keys, and no records of usage."""
STANDARD_ERROR = Path("-")


@contextlib.contextmanager
def accounts_of(config: Config, settings: Settings) -> Iterator[Accounts | None]:
    """The accounts that a configuration asks for, opened, or None without a database.

    A UsageError where others could reach the server and nobody had to show a key.
    """
    server = config.server
    if server.database == NO_DATABASE:
        check_exposed(server.host, has_keys=False)
        yield None
        return
    try:
        accounts = Accounts(server.database or default_url(settings))
    except StorageError as error:
        if server.database is not None or settings.database is not None:
            raise
        raise StorageError(
            f"{error}; --database names another place, and --database none goes without keys "
            "and records of usage"
        ) from error
    with accounts:
        check_exposed(server.host, has_keys=accounts.has_keys)
        yield accounts


@contextlib.contextmanager
def operated(config: Config, pool: Pool, accounts: Accounts | None) -> Iterator[Surroundings]:
    """What a server answers with, watched as the configuration says, until the context is left."""
    server = config.server
    if server.log_prompts and server.log is None and server.traces is None:
        raise UsageError("log_prompts needs a log or traces, where prompts would go")
    metrics = Metrics(pool.names, lambda: _engines(pool))
    pool.on_load = metrics.loaded
    observers: list[Observer] = [metrics]
    with contextlib.ExitStack() as stack:
        if server.log is not None:
            target = None if server.log == STANDARD_ERROR else server.log
            stack.enter_context(logging_to(target))
            observers.append(RequestLog(prompts=server.log_prompts))
        else:
            stack.enter_context(_warnings_alone())
        if server.traces is not None:
            traces = Traces(server.traces, prompts=server.log_prompts)
            stack.callback(traces.close)
            observers.append(traces)
        yield surroundings_of(
            config,
            pool,
            door=None if accounts is None else KeyDoor(accounts),
            observers=Observers(*observers),
            metrics=metrics,
        )


@contextlib.contextmanager
def _warnings_alone() -> Iterator[None]:
    """Without a log, what goes wrong still goes to standard error; nothing else does."""
    with logging_to(None):
        logging.getLogger("alpage").setLevel(logging.WARNING)
        yield


def _engines(pool: Pool) -> Mapping[str, EngineStats]:
    """Called from a thread of its own: the pool gives a list made at once."""
    local = [model for model in pool if isinstance(model, LocalModel)]
    return {model.name: model.llm.engine.stats for model in local}
