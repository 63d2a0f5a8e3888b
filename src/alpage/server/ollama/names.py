"""Names of models as Ollama's clients write them."""

from alpage.catalogue.ollama import PREFIX
from alpage.server.accounts.caller import Caller
from alpage.server.pool import Pool

_LATEST = ":latest"


def served_name(name: str, pool: Pool, caller: Caller) -> str:
    """The name that the server knows.

    `:latest` is dropped unless a model is called so; what comes out of Ollama's own store on this
    machine may be asked without its prefix. A name that nobody knows stays as it is, but for that.
    """
    known = {card.name for card in pool.cards(caller)}
    bare = name.removesuffix(_LATEST)
    for found in (name, bare, PREFIX + name, PREFIX + bare):
        if found in known:
            return found
    return bare


def pulled_name(name: str) -> str:
    """The name in Alpage's catalogue or of a hub: without `:latest` and the hub's address."""
    for host in ("hf.co/", "huggingface.co/"):
        name = name.removeprefix(host)
    return name.removesuffix(_LATEST)
