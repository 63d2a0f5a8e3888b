"""Names of models as Ollama's clients write them."""

from alpage.server.accounts.caller import Caller
from alpage.server.pool import Pool

_LATEST = ":latest"


def served_name(name: str, pool: Pool, caller: Caller) -> str:
    """The name that the server knows: `:latest` is dropped where only the bare name exists."""
    bare = name.removesuffix(_LATEST)
    known = {card.name for card in pool.cards(caller)}
    return bare if name not in known and bare in known else name


def pulled_name(name: str) -> str:
    """The name in Alpage's catalogue or of a hub: without `:latest` and the hub's address."""
    for host in ("hf.co/", "huggingface.co/"):
        name = name.removeprefix(host)
    return name.removesuffix(_LATEST)
