"""`alpage keys`: who may ask a server."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from alpage.cli.dates import expiry, moment
from alpage.cli.options import DatabaseUrl, Json
from alpage.cli.output import note, print_facts, print_json, print_table, say
from alpage.core.settings import Settings
from alpage.server.accounts.caller import Limits, Scope
from alpage.server.accounts.database import default_url, open_database
from alpage.server.accounts.keys import Key, KeyStore

_LIMITS = "Limits"


class ScopeName(StrEnum):
    """The scopes, as an option that can be repeated takes them."""

    INFERENCE = "inference"
    METRICS = "metrics"
    ADMIN = "admin"


KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as alpage keys list says.")]
Scopes = Annotated[
    list[ScopeName] | None,
    typer.Option("--scope", help="What the key is for. Can be repeated. Default: inference."),
]
PerMinute = Annotated[
    int | None, typer.Option(metavar="N", help="Requests in a minute.", rich_help_panel=_LIMITS)
]
Tokens = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Tokens of prompts and answers in a minute.", rich_help_panel=_LIMITS
    ),
]
DayTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Tokens in a day of UTC.", rich_help_panel=_LIMITS),
]
Concurrent = Annotated[
    int | None,
    typer.Option(metavar="N", help="Requests at the same time.", rich_help_panel=_LIMITS),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A model that may be asked. Can be repeated. Default: all.",
        rich_help_panel=_LIMITS,
    ),
]


def command() -> None:
    """Make, list and revoke the keys of a server.

    A server whose database has no key takes requests from anyone. What is changed here takes
    effect in running servers within about a second.
    """


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for people.")],
    tenant: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Keys of one tenant share cached prompts and a share of the machine. Default: "
            "the key is a tenant of its own.",
        ),
    ] = None,
    scope: Scopes = None,
    admin: Annotated[bool, typer.Option("--admin", help="The same as --scope admin.")] = False,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="30d|2027-01-31", help="Days from now, or the last day (UTC). Default: never."
        ),
    ] = None,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: Tokens = None,
    tokens_per_day: DayTokens = None,
    concurrent: Concurrent = None,
    model: Models = None,
    weight: Annotated[
        float, typer.Option(metavar="X", help="Share of the machine under load.")
    ] = 1.0,
    priority: Annotated[int, typer.Option(metavar="N", help="Larger is served earlier.")] = 0,
    database: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Make a key, and print its secret: it is shown this once."""
    scopes: set[Scope] = {each.value for each in scope or ()}
    if admin:
        scopes.add("admin")
    with _store(database) as keys:
        key, secret = keys.create(
            name,
            tenant=tenant,
            scopes=scopes or {"inference"},
            models=model or None,
            limits=Limits(requests_per_minute, tokens_per_minute, tokens_per_day, concurrent),
            weight=weight,
            priority=priority,
            expires=expiry(expires),
        )
    _show_secret(key, secret, json)


def list_keys(database: DatabaseUrl = None, json: Json = False) -> None:
    """List all keys, revoked and expired ones too."""
    with _store(database) as keys:
        found = keys.all()
    if json:
        print_json([_facts(key) for key in found])
        return
    head = ("ID", "NAME", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES", "LIMITS")
    print_table(head, [_row(key) for key in found])


def show(key_id: KeyId, database: DatabaseUrl = None, json: Json = False) -> None:
    """Show one key."""
    with _store(database) as keys:
        facts = _facts(keys.get(key_id))
    if json:
        print_json(facts)
        return
    print_facts([(name.replace("_", " "), _words(value)) for name, value in facts.items()])


def revoke(key_id: KeyId, database: DatabaseUrl = None, json: Json = False) -> None:
    """End a key for good."""
    with _store(database) as keys:
        key = keys.revoke(key_id)
    if json:
        print_json(_facts(key))
        return
    say(f"revoked {key.id} ({key.name}) at {moment(key.revoked)}")


def rotate(key_id: KeyId, database: DatabaseUrl = None, json: Json = False) -> None:
    """Give a key a new secret, which ends the old one; print it, this once."""
    with _store(database) as keys:
        key, secret = keys.rotate(key_id)
    _show_secret(key, secret, json)


COMMANDS = {
    "create": create,
    "list": list_keys,
    "show": show,
    "revoke": revoke,
    "rotate": rotate,
}


@contextlib.contextmanager
def _store(url: str | None) -> Iterator[KeyStore]:
    database = open_database(url or default_url(Settings.from_environment()))
    try:
        yield KeyStore(database)
    finally:
        database.close()


def _show_secret(key: Key, secret: str, json: bool) -> None:
    if json:
        print_json(_facts(key) | {"secret": secret})
        return
    say(secret)
    note(f"This is the secret of the key {key.id} ({key.name}). It is not shown again.")


def _facts(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "state": key.state(time.time()),
        "scopes": sorted(key.scopes),
        "models": None if key.models is None else sorted(key.models),
        **asdict(key.limits),
        "weight": key.weight,
        "priority": key.priority,
        "created": moment(key.created),
        "expires": moment(key.expires),
        "revoked": moment(key.revoked),
    }


def _row(key: Key) -> tuple[str, ...]:
    limits = [
        f"{value:,} {name.replace('_', ' ').replace(' per ', '/')}"
        for name, value in asdict(key.limits).items()
        if value is not None
    ]
    return (
        key.id,
        key.name,
        key.tenant,
        ", ".join(sorted(key.scopes)),
        key.state(time.time()),
        str(moment(key.created)).partition("T")[0],
        (moment(key.expires) or "never").partition("T")[0],
        ", ".join(limits),
    )


def _words(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
