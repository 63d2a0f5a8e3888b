"""Models that come when they are asked for and go when others need their memory."""

import asyncio
import dataclasses
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.server.pool.offering import SIZE, Found, Loader, offer_of

from alpage.core.errors import CapacityError, FormatError, NotFoundError
from alpage.server.accounts.caller import ANYONE
from alpage.server.backends.protocol import Terms
from alpage.server.errors import RequestError, headers_of, status_of
from alpage.server.offers import Offer
from alpage.server.pool import Pool
from alpage.server.queries import TextQuery

SECONDS = 30


@asynccontextmanager
async def running(pool: Pool) -> AsyncIterator[Pool]:
    pool.start()
    try:
        yield pool
    finally:
        await pool.stop()
        await asyncio.to_thread(pool.close)


async def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)


async def use(pool: Pool, name: str) -> None:
    (await pool.lease(name, ANYONE)).release()


@pytest.fixture
def loader(smollm2_path: Path) -> Callable[[], Loader]:
    return lambda: Loader(smollm2_path)


async def answer(pool: Pool, name: str, tokens: int) -> list[int]:
    with await pool.lease(name, ANYONE) as lease:
        query = TextQuery(prompts=["One, two,"], options={"max_tokens": tokens, "temperature": 0})
        prepared = await asyncio.to_thread(lease.model.prepare, query)
        async with prepared.run(Terms()) as pieces:
            return [token async for _, piece in pieces for token in piece.tokens]


def test_a_model_loads_once_for_all_who_ask(loader: Callable[[], Loader]) -> None:
    async def run() -> None:
        held = loader()
        held.gate.clear()
        async with running(Pool(offers=[offer_of("a", held)])) as pool:
            assert not pool.card("a", ANYONE).loaded
            assert (list(pool), pool.bytes_of("a"), pool.expires("a")) == ([], 0, None)
            asked = [asyncio.create_task(pool.lease("a", ANYONE)) for _ in range(5)]
            await until(held.begun.is_set)
            asked[0].cancel()  # who leaves ends nothing for the others
            asked[1].cancel()
            held.gate.set()
            leases = [await one for one in asked[2:]]
            assert len({id(lease.model) for lease in leases}) == 1
            assert held.loads == 1
            card = pool.card("a", ANYONE)
            assert (card.loaded, card.context, card.created) == (True, 512, 1_700_000_000)
            assert pool.bytes_of("a") == SIZE
            for lease in leases:
                lease.release()
                lease.release()  # the second time does nothing

    asyncio.run(run())


def test_loading_holds_up_nobody_who_asks_another(loader: Callable[[], Loader]) -> None:
    async def run() -> None:
        slow, ready = loader(), loader()
        slow.gate.clear()
        offers = [offer_of("slow", slow), offer_of("ready", ready)]
        async with running(Pool(offers=offers)) as pool:
            await use(pool, "ready")
            waiting = asyncio.create_task(answer(pool, "slow", 4))
            await until(slow.begun.is_set)
            tokens = await answer(pool, "ready", 32)
            assert len(tokens) == 32
            assert not waiting.done()  # its model loads still, and the other answered
            slow.gate.set()
            assert await waiting == tokens[:4]

    asyncio.run(run())


def test_a_failed_load_tells_everyone_and_is_tried_again(
    loader: Callable[[], Loader], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        broken = loader()
        broken.gate.clear()
        broken.errors = [
            FormatError("/models/x.gguf ends early"), MemoryError(), ValueError("odd"),
            NotFoundError("there is no /models/x.gguf"),
        ]  # fmt: skip
        async with running(Pool(offers=[offer_of("a", broken)], memory=SIZE)) as pool:
            asked = [asyncio.create_task(pool.lease("a", ANYONE)) for _ in range(3)]
            await until(broken.begun.is_set)
            broken.gate.set()
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert [str(error) for error in found] == [
                "the model a cannot be loaded at the moment; the server's log says why"
            ] * 3  # its path is nobody's business
            assert "FormatError: /models/x.gguf ends early" in caplog.text
            assert len({id(error) for error in found}) == 3  # to each an error of his own
            assert broken.loads == 1
            with pytest.raises(CapacityError, match="not enough memory"):
                await pool.lease("a", ANYONE)
            for status, message in ((500, "ValueError: odd"), (503, "NotFoundError: there")):
                with pytest.raises(RequestError, match="cannot be loaded") as told:
                    await pool.lease("a", ANYONE)
                assert (status_of(told.value), told.value.code) == (status, "model_not_loaded")
                assert message in caplog.text
            assert len(await answer(pool, "a", 2)) == 2  # and it has given its memory back
            assert broken.loads == 5

    asyncio.run(run())


def test_the_idle_one_that_was_used_longest_ago_makes_room(loader: Callable[[], Loader]) -> None:
    async def run() -> None:
        loaders = {name: loader() for name in "abcd"}
        offers = [offer_of(name, one, pin=name == "d") for name, one in loaders.items()]
        async with running(Pool(offers=offers, memory=3 * SIZE)) as pool:
            for name in "dab":
                await use(pool, name)
            held = await pool.lease("a", ANYONE)  # in use: not even the longest unused goes
            await use(pool, "c")
            assert [model.card.name for model in pool] == ["a", "c", "d"]
            assert loaders["b"].closed
            assert not pool.card("b", ANYONE).loaded
            assert pool.card("b", ANYONE).context == 512  # it is known by now
            held.release()
            await use(pool, "b")
            assert [model.card.name for model in pool] == ["a", "b", "d"]
            assert loaders["b"].loads == 2

    asyncio.run(run())


def test_who_finds_no_room_waits_and_is_told(loader: Callable[[], Loader]) -> None:
    async def run() -> None:
        one, other = loader(), loader()
        offers = [offer_of("a", one), offer_of("b", other)]
        async with running(Pool(offers=offers, memory=SIZE, patience=0.05)) as pool:
            held = await pool.lease("a", ANYONE)
            with pytest.raises(RequestError, match="no memory for the model b") as told:
                await pool.lease("b", ANYONE)
            assert (status_of(told.value), headers_of(told.value)) == (503, {"retry-after": "1"})
            assert (other.loads, one.closed) == (0, False)
            pool._patience = SECONDS
            waiting = asyncio.create_task(pool.lease("b", ANYONE))
            await asyncio.sleep(0)
            held.release()  # now it can go
            (await waiting).release()
            assert one.closed

    asyncio.run(run())


def test_a_model_too_large_for_all_memory(loader: Callable[[], Loader]) -> None:
    async def run() -> None:
        large = loader()
        large.size = 2 * SIZE
        async with running(Pool(offers=[offer_of("a", large)], memory=SIZE)) as pool:
            with pytest.raises(CapacityError, match="needs 200 bytes, but all models together"):
                await pool.lease("a", ANYONE)
            assert large.loads == 0

    asyncio.run(run())


def test_models_go_when_their_time_is_over(loader: Callable[[], Loader]) -> None:
    async def run() -> None:
        brief, lasting = loader(), loader()
        offers = [offer_of("brief", brief, keep=0.0), offer_of("lasting", lasting, keep=None)]
        async with running(Pool(offers=offers)) as pool:
            lease = await pool.lease("brief", ANYONE)
            now = time.time()
            expires = pool.expires("brief")
            assert expires is not None and abs(expires - now) < SECONDS
            lease.release()
            await until(lambda: brief.last is not None and brief.closed)
            assert [model.card.name for model in pool] == []
            await use(pool, "lasting")
            assert pool.expires("lasting") is None
            await pool.keep("lasting", 3600)
            expires = pool.expires("lasting")
            assert expires is not None and abs(expires - time.time() - 3600) < SECONDS
            await pool.keep("lasting", 0)
            await until(lambda: lasting.closed)

    asyncio.run(run())


def test_unloading_waits_for_those_who_use_it(loader: Callable[[], Loader]) -> None:
    async def run() -> None:
        one = loader()
        async with running(Pool(offers=[offer_of("a", one)])) as pool:
            lease = await pool.lease("a", ANYONE)
            await pool.unload("a")
            assert not one.closed
            lease.release()
            await until(lambda: one.closed)
            await use(pool, "a")
            expires = pool.expires("a")  # as long as ever
            assert expires is not None and expires > time.time() + 1000
            await pool.unload("a")
            assert one.closed
            await pool.unload("a")  # it is not there: nothing happens
            with pytest.raises(RequestError, match="there is no model 'b' here"):
                await pool.unload("b")

    asyncio.run(run())


def test_pinned_models_and_those_of_others_stay(
    loader: Callable[[], Loader], smollm2_path: Path
) -> None:
    async def run() -> None:
        pinned, fixed = loader(), loader()
        llm = fixed.load()
        offers = [offer_of("pinned", pinned, pin=True, keep=0.0)]
        async with running(Pool.of({"fixed": llm})) as pool, running(Pool(offers=offers)) as other:
            assert pool.bytes_of("fixed") > smollm2_path.stat().st_size // 2
            await use(other, "pinned")
            for where, name in ((pool, "fixed"), (other, "pinned")):
                await where.keep(name, 0)
                await where.unload(name)
                assert where.expires(name) is None
                assert [model.card.name for model in where] == [name]
        assert pinned.closed
        assert not fixed.closed  # whoever loaded it closes it
        llm.close()

    asyncio.run(run())


def test_what_is_there_from_the_start(loader: Callable[[], Loader]) -> None:
    first, second = loader(), loader()
    offers = [offer_of("a", first, preload=True, keep=0.0), offer_of("b", second)]
    pool = Pool(offers=offers, memory=SIZE)
    pool.preload()
    assert [(card.name, card.loaded) for card in pool.cards(ANYONE)] == [("a", True), ("b", False)]

    async def run() -> None:
        async with running(pool):
            await until(lambda: first.closed)  # nobody has asked

    asyncio.run(run())
    crowded = Pool(offers=[dataclasses.replace(o, preload=True) for o in offers], memory=SIZE)
    with pytest.raises(CapacityError, match="need 200 bytes, but may use 100"):
        crowded.preload()
    crowded.close()
    assert first.closed


def test_any_model_of_this_machine(loader: Callable[[], Loader]) -> None:
    async def run() -> None:
        named, found = loader(), loader()
        discovery = Found([offer_of("found", found), offer_of("named", found)])
        async with running(Pool(offers=[offer_of("named", named)], discovery=discovery)) as pool:
            assert {card.name for card in pool.cards(ANYONE)} == {"found", "named"}
            assert not pool.card("found", ANYONE).loaded
            assert (pool.expires("found"), pool.bytes_of("found")) == (None, 0)
            await use(pool, "named")
            assert (named.loads, found.loads) == (1, 0)
            await use(pool, "found")
            assert pool.card("found", ANYONE).loaded
            few = dataclasses.replace(ANYONE, models=frozenset({"named"}))
            assert [card.name for card in pool.cards(few)] == ["named"]
            for name in ("found", "else", "../found"):
                with pytest.raises(RequestError, match="this server has: named") as told:
                    pool.card(name, few)
                assert told.value.code == "model_not_found"
            with pytest.raises(RequestError, match="there is no model 'else' here"):
                await pool.lease("else", ANYONE)

    asyncio.run(run())


def test_a_load_that_nobody_waits_for_any_more_ends_before_it_begins(
    loader: Callable[[], Loader], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        one, other = loader(), loader()
        offers: list[Offer] = [offer_of("a", one), offer_of("b", other)]
        async with running(Pool(offers=offers, memory=SIZE)) as pool:
            held = await pool.lease("a", ANYONE)
            waiting = asyncio.create_task(pool.lease("b", ANYONE))
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.wait({waiting})
            held.release()
            await asyncio.sleep(0.05)
            assert (other.loads, one.closed) == (0, False)

    asyncio.run(run())
    gc.collect()
    assert caplog.text == ""


def test_nobody_goes_in_vain(loader: Callable[[], Loader]) -> None:
    async def run() -> None:
        used, idle, large = loader(), loader(), loader()
        large.size = 2 * SIZE
        offers = [offer_of("used", used), offer_of("idle", idle), offer_of("large", large)]
        async with running(Pool(offers=offers, memory=2 * SIZE, patience=0.05)) as pool:
            held = await pool.lease("used", ANYONE)
            await use(pool, "idle")
            with pytest.raises(RequestError, match="no memory for the model large"):
                await pool.lease("large", ANYONE)
            assert not idle.closed  # it alone would not have made room
            held.release()
            pool._patience = SECONDS
            await use(pool, "large")
            assert (used.closed, idle.closed) == (True, True)

    asyncio.run(run())
