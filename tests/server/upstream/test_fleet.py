"""Upstreams that fail: what is tried again, where, and what is told of it."""

import asyncio
from typing import Any

import pytest
from tests.server.upstream.asking import HI, SECRET, ask, model_of, once, text
from tests.server.upstream.scripted import (
    GOOD,
    Scripted,
    Step,
    delta,
    events,
    head,
    refusal,
    says,
    scripted,
)

from alpage.server.backends.breaker import Breaker
from alpage.server.backends.fleet import Fleet
from alpage.server.backends.protocol import Terms
from alpage.server.errors import RequestError, headers_of


def test_redirects_are_never_followed() -> None:
    async def run() -> None:
        with scripted(GOOD) as other, scripted() as server:
            step = says(head("307 Temporary Redirect", f"location: {other.url}/chat/completions"))
            server.steps = [step]
            with pytest.raises(RequestError, match=r"answered with a redirect \(307\)") as told:
                await ask(model_of(server, attempts=3))
            assert told.value.status == 502
            assert (len(server.asked), other.asked) == (1, [])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "error", "found", "message", "param"),
    [
        ("400 X", {"error": {"message": "no such field", "param": "top_q", "code": "bad"}}, 400,
         "far: no such field", "top_q"),
        ("422 X", {"detail": [1]}, 422, "far: refused with status 422", None),
        ("413 X", {"error": "too large"}, 413, "far: too large", None),
        ("418 X", {"message": "teapot " + SECRET}, 400, "far: teapot ***", None),
        ("429 X", {"error": {"message": "slow down"}}, 429, "far: slow down", None),
        ("401 X", {"error": {"message": f"wrong key {SECRET}"}}, 502,
         "the upstream far refused this server with status 401", None),
        ("404 X", {"error": {"message": "no model"}}, 502,
         "the upstream far refused this server with status 404", None),
        ("500 X", {"error": {"message": "their secrets"}}, 502,
         "the upstream far failed with status 500", None),
        ("503 X", {"error": {}}, 502, "the upstream far failed with status 503", None),
        ("204 X", {}, 502, "the upstream far refused this server with status 204", None),
    ],
)  # fmt: skip
def test_their_errors_as_ours(
    status: str, error: Any, found: int, message: str, param: str | None
) -> None:
    with pytest.raises(RequestError) as told:
        once(refusal(status, error))
    assert (told.value.status, str(told.value), told.value.param) == (found, message, param)
    assert SECRET not in str(told.value)


def test_what_is_tried_again_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def brief(fleet: Fleet, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(Fleet, "_rest", brief)
    fine = [refusal("503 X", {}), refusal("502 X", {}), GOOD]
    assert text(once(*fine, attempts=3)[0]) == "Hello"
    assert len(pauses) == 2 and 0.125 <= pauses[0] <= 0.25 <= pauses[1] <= 0.5
    pauses.clear()
    busy = refusal("429 X", {"error": {"message": "slow down"}}, "retry-after: 7")
    assert text(once(busy, GOOD, attempts=2)[0]) == "Hello"
    assert pauses == [7]
    pauses.clear()
    later = refusal("429 X", {"error": {"message": "slow down"}}, "retry-after: 600")
    with pytest.raises(RequestError) as told:  # too long to wait: the client decides
        once(later, GOOD, attempts=2)
    assert headers_of(told.value) == {"retry-after": "600"}
    once_only: list[tuple[Step, str]] = [
        (refusal("500 X", {}), "status 500"),
        (refusal("400 X", {"error": "odd"}), "odd"),
        (says(), "before it answered"),
        (says(head(), events(delta("a"), done=False)), "in the middle"),
    ]
    for step, message in once_only:
        with pytest.raises(RequestError, match=message):
            once(step, GOOD, attempts=3)
    assert pauses == []


def test_a_breaker_opens_and_closes() -> None:
    async def run() -> None:
        now = 0.0
        with scripted(refusal("500 X", {})) as server:
            model = model_of(server, failures=2, rest=10.0)
            endpoint = model.fleet.endpoints[0]
            endpoint.breaker = Breaker(2, 10.0, clock=lambda: now)
            for _ in range(2):
                with pytest.raises(RequestError, match="status 500"):
                    await ask(model)
            assert model.report()[0]["breaker"] == "open"
            now = 4.0
            with pytest.raises(RequestError, match="left alone for a while") as told:
                await ask(model)
            assert told.value.status == 503
            assert headers_of(told.value) == {"retry-after": "6"}
            assert len(server.asked) == 2  # nobody bothered it
            now = 10.0
            assert model.report()[0]["breaker"] == "half-open"
            with pytest.raises(RequestError, match="status 500"):
                await ask(model)  # the one that tries
            assert model.report()[0]["breaker"] == "open"
            now = 20.0
            server.steps = [server.until_left(head(), events(delta("a"), done=False))]
            async with model.prepare(HI).run(Terms()) as pieces:
                await anext(pieces)
                with pytest.raises(RequestError, match="left alone"):
                    await ask(model)  # one at a time
            # The client left it: that says nothing about the server.
            assert model.report()[0]["breaker"] == "half-open"
            server.steps = [GOOD]
            assert text((await ask(model))[0]) == "Hello"
            assert model.report()[0]["breaker"] == "closed"
            await model.leave()

    asyncio.run(run())


def test_a_fleet_behind_one_name() -> None:
    async def run() -> None:
        with scripted(GOOD) as one, scripted(GOOD) as two, scripted(refusal("503 X", {})) as bad:
            model = model_of(one, two)
            for _ in range(6):
                await ask(model)
            assert (len(one.asked), len(two.asked)) == (3, 3)
            one.steps = [one.until_left(head(), events(delta("a"), done=False))]
            model = model_of(one, two)
            async with model.prepare(HI).run(Terms()) as pieces:
                await anext(pieces)
                before = len(two.asked)
                for _ in range(3):
                    await ask(model)  # the less busy one
                assert len(two.asked) == before + 3
            model = model_of(bad, two, attempts=2, failures=2)
            for _ in range(6):
                assert text((await ask(model))[0]) == "Hello"
            assert len(bad.asked) == 2  # then it was left alone
            gone = Scripted(url="http://127.0.0.1:9/v1")
            assert text((await ask(model_of(gone, two, attempts=2)))[0]) == "Hello"
            with pytest.raises(RequestError, match="the upstream far cannot be reached"):
                await ask(model_of(gone))

    asyncio.run(run())
