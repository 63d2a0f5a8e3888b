"""Where responses are kept: bounded, for a while, each tenant for itself."""

from pathlib import Path

from alpage.server.config import Config
from alpage.server.openai.storage import ResponseStore, Stored
from alpage.server.pool import Pool
from alpage.server.process import surroundings_of


def stored(size: int) -> Stored:
    """So many bytes in all."""
    overhead = Stored(b"", b"").size
    return Stored(b"x" * (size - overhead), b"")


def test_a_tenant_never_reads_anothers() -> None:
    store = ResponseStore()
    assert store.put("a", "r", stored(1000))
    assert store.get("a", "r") == stored(1000)
    assert store.get("b", "r") is None
    assert not store.delete("b", "r")
    assert store.get("a", "r") is not None
    assert store.delete("a", "r")
    assert (store.get("a", "r"), store.size) == (None, 0)


def test_what_was_not_used_for_longest_goes_first() -> None:
    store = ResponseStore(limit_bytes=3000)
    for name in "123":
        store.put("a", name, stored(1000))
    store.get("a", "1")
    store.put("a", "4", stored(1000))
    kept = [name for name in "1234" if store.get("a", name)]
    assert (kept, store.size) == (["1", "3", "4"], 3000)
    store.put("a", "4", stored(2000))  # the same again, but larger: it is counted once
    assert ([name for name in "134" if store.get("a", name)], store.size) == (["3", "4"], 3000)


def test_the_tenant_that_keeps_most_makes_room() -> None:
    store = ResponseStore(limit_bytes=10_000)
    store.put("small", "1", stored(1000))
    for number in range(50):
        store.put("large", str(number), stored(1000))
    assert store.get("small", "1") is not None
    assert store.size == 10_000
    assert store.put("new", "1", stored(9000))  # more than anyone has: it is kept all the same
    assert store.get("new", "1") is not None
    assert store.size <= 10_000


def test_what_is_too_large_alone_is_not_kept() -> None:
    store = ResponseStore(limit_bytes=3000)
    store.put("a", "1", stored(1000))
    assert not store.put("a", "2", stored(3001))
    assert store.get("a", "1") is not None


def test_it_is_forgotten_when_nobody_uses_it() -> None:
    now = 0.0
    store = ResponseStore(seconds=10, clock=lambda: now)
    store.put("a", "1", stored(1000))
    store.put("b", "2", stored(1000))
    now = 9
    assert store.get("a", "1") is not None
    now = 11
    assert store.get("b", "2") is None
    assert store.size == 1000
    assert store.get("a", "1") is not None
    now = 30
    assert store.get("a", "1") is None
    assert store.size == 0


def test_a_configuration_says_how_much_is_kept(tmp_path: Path) -> None:
    def configured(text: str) -> ResponseStore | None:
        file = tmp_path / "serve.toml"
        file.write_text(f"[server]\n{text}", "utf-8")
        return surroundings_of(Config.read(file), Pool({})).responses

    assert configured("keep_responses = false") is None
    bounds = configured('responses_size = "1MiB"\nresponses_time = "2h"')
    assert bounds is not None
    assert (bounds.limit_bytes, bounds.seconds) == (1 << 20, 7200)
    plain = configured("")
    assert plain is not None
    assert (plain.limit_bytes, plain.seconds) == (64 << 20, 86_400)
