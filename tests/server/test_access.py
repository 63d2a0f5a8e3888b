"""Pages and hosts that the operator named, encryption, and bodies that are too much together."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from tests.server.serving import Serving, serving

from alpage import Llama
from alpage.core.errors import UsageError
from alpage.server.app import Surroundings
from alpage.server.config import Config, ServerConfig
from alpage.server.guard import Access
from alpage.server.life import Life
from alpage.server.pool import Pool
from alpage.server.process import open_socket, surroundings_of, url_of

APP = "https://app.example"
CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def open_to_app(llm: Llama) -> Iterator[str]:
    around = Surroundings(
        pool=Pool.of({"smollm2": llm}), local=True, origins=[APP], hosts=["models.example", "[::2]"]
    )
    with serving(around) as running:
        yield running.url


def cors(answer: httpx.Response) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k.startswith("access-control")}


def test_a_named_page_asks_first_and_then_asks(open_to_app: str) -> None:
    asked_first = httpx.options(
        f"{open_to_app}/v1/chat/completions",
        headers={
            "origin": APP,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-os",
        },
    )
    assert asked_first.status_code == 204
    assert cors(asked_first) == {
        "access-control-allow-origin": APP,
        "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
        "access-control-allow-headers": "authorization,content-type,x-stainless-os",
        "access-control-expose-headers": "x-request-id, retry-after",
        "access-control-max-age": "600",
    }
    answer = httpx.post(
        f"{open_to_app}/v1/chat/completions", json=CHAT, headers={"origin": APP}, timeout=60
    )
    assert answer.status_code == 200
    assert cors(answer)["access-control-allow-origin"] == APP
    assert (answer.headers["vary"], answer.headers["x-content-type-options"]) == (
        "origin",
        "nosniff",
    )
    wrong = httpx.post(f"{open_to_app}/v1/none", json={}, headers={"origin": APP})
    assert (wrong.status_code, cors(wrong)["access-control-allow-origin"]) == (404, APP)


@pytest.mark.parametrize(
    "origin", ["https://app.example.evil.example", "http://app.example", f"{APP}:8443", "null", "*"]
)
def test_no_other_page_does(open_to_app: str, origin: str) -> None:
    for method in ("OPTIONS", "POST", "GET"):
        headers = {"origin": origin, "access-control-request-method": "POST"}
        answer = httpx.request(
            method, f"{open_to_app}/v1/chat/completions", json=CHAT, headers=headers
        )
        assert (answer.status_code, cors(answer)) == (403, {})


@pytest.mark.parametrize("names", ["x y", "a" * 65, "\u00e4", ",", "a;b"])
def test_odd_names_of_headers_are_not_echoed(open_to_app: str, names: str) -> None:
    headers = [
        (b"origin", APP.encode()),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", names.encode("utf-8")),
    ]
    answer = httpx.request("OPTIONS", f"{open_to_app}/v1/models", headers=headers)
    assert "access-control-allow-headers" not in answer.headers


def test_hosts_by_name(open_to_app: str) -> None:
    for host, status in [
        ("models.example", 200), ("MODELS.example:8080", 200), ("[::2]:1", 200),
        ("localhost", 200), ("other.example", 403), ("models.example.evil.example", 403),
    ]:  # fmt: skip
        answer = httpx.get(f"{open_to_app}/v1/models", headers={"host": host})
        assert answer.status_code == status, host
    everyone, few = Access.of(local=False), Access.of(local=False, hosts=["a.example"])
    assert everyone.answers_for("anything") and few.answers_for("a.example:1")
    assert not few.answers_for("localhost")


@pytest.mark.parametrize(
    "origin",
    ["*", "https://", "app.example", "https://a/", "https://a/b", "https://a?b", "file://a"],
)
def test_origins_that_are_none(origin: str) -> None:
    with pytest.raises(UsageError, match="an origin is written as"):
        Access.of(local=True, origins=[origin])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ssl.SSLContext]:
    """A certificate for this machine, its key, and who trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return certificate, key, trusting


def test_encrypted(llm: Llama, files: tuple[Path, Path, ssl.SSLContext]) -> None:
    certificate, key, trusting = files
    config = Config(server=ServerConfig(tls_certificate=certificate, tls_key=key))
    around = surroundings_of(config, Pool.of({"smollm2": llm}))
    assert around.certificate == (certificate, key)
    with serving(around) as running:
        url = running.url.replace("http:", "https:")
        with httpx.Client(verify=trusting, timeout=60) as client:
            answer = client.post(f"{url}/v1/chat/completions", json=CHAT)
            assert answer.status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/health")  # who does not know the authority
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{running.url}/health")
    with open_socket("127.0.0.1", 0) as sock:
        assert url_of(sock, "127.0.0.1", encrypted=True).startswith("https://127.0.0.1:")


def test_certificates_that_cannot_be_used(
    files: tuple[Path, Path, ssl.SSLContext], tmp_path: Path
) -> None:
    certificate, key, _ = files
    pairs: list[tuple[Path | None, Path | None]] = [
        (key, certificate), (certificate, tmp_path), (tmp_path / "none", key), (certificate, None),
        (None, key),
    ]  # fmt: skip
    for one, other in pairs:
        config = Config(server=ServerConfig(tls_certificate=one, tls_key=other))
        with pytest.raises(UsageError, match=r"certificate and (its )?key"):
            surroundings_of(config, Pool())


@pytest.fixture
def narrow(llm: Llama) -> Iterator[tuple[Serving, Life]]:
    """A server with little room for bodies and requests."""
    life = Life(most_requests=2, most_body_bytes=200_000)
    with serving(Surroundings(pool=Pool.of({"smollm2": llm}), local=True, life=life)) as running:
        yield running, life


def begin(running: Serving, announced: int, sent: bytes) -> socket.socket:
    port = int(running.url.rpartition(":")[2])
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {announced}\r\n\r\n"
    )
    sock.sendall(head.encode() + sent)
    return sock


def wait_for(true: Any) -> None:
    for _ in range(2000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")


def test_bodies_that_are_too_much_together(narrow: tuple[Serving, Life]) -> None:
    running, life = narrow
    with begin(running, 150_000, b"{"):
        wait_for(lambda: life.body_bytes == 150_000)  # taken by its announcement
        with begin(running, 100_000, b"") as other:  # refused before any of it has come
            told = b""
            while b"server_full" not in told and (part := other.recv(65536)):
                told += part
        assert told.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in told
        assert b"the bodies of requests under way take 150,000 bytes" in told
        assert b'"code":"server_full"' in told
        small = httpx.post(f"{running.url}/v1/completions", json={"model": "none", "prompt": "a"})
        assert small.status_code == 404
    wait_for(lambda: life.body_bytes == 0)

    def parts() -> Iterator[bytes]:
        yield b'{"user": "'
        for _ in range(40):
            yield b"x" * 10_000

    answer = httpx.post(
        f"{running.url}/v1/completions",
        content=parts(),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 503  # not announced: refused when it is too much
    wait_for(lambda: (life.body_bytes, life.under_way) == (0, 0))


def test_requests_that_are_too_many(narrow: tuple[Serving, Life]) -> None:
    running, life = narrow
    with begin(running, 100, b"{"), begin(running, 100, b"{"):
        wait_for(lambda: life.under_way == 2)
        refused = httpx.post(f"{running.url}/v1/completions", json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_full")
        assert httpx.get(f"{running.url}/health").status_code == 200  # who watches may
    wait_for(lambda: life.under_way == 0)
    assert json.loads(httpx.get(f"{running.url}/ready").text) == {"status": "ready"}


def test_readiness_while_it_ends(narrow: tuple[Serving, Life]) -> None:
    running, life = narrow
    with begin(running, 100, b"{") as sock:
        wait_for(lambda: life.under_way == 1)
        running.server.should_exit = True
        wait_for(lambda: life.draining)
        assert httpx.get(f"{running.url}/ready").status_code == 503
        assert httpx.get(f"{running.url}/health").status_code == 200
        refused = httpx.post(f"{running.url}/v1/completions", json=CHAT)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert "retry-after" in refused.headers
        rest = json.dumps({"model": "smollm2", "prompt": "One,", "max_tokens": 2}).encode()
        sock.sendall(rest[1:].ljust(99))  # what was under way is answered
        answer = b""
        while part := sock.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200") and b'"completion_tokens":2' in answer


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_connection_that_never_asks_is_cut_off(
    llm: Llama, monkeypatch: pytest.MonkeyPatch, earlier: int
) -> None:
    monkeypatch.setattr("alpage.server.connection._HEADER_SECONDS", 1.0)
    with serving(Surroundings(pool=Pool.of({"smollm2": llm}), local=True)) as running:
        port = int(running.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            for _ in range(earlier):
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = b""
                while b'"status"' not in answer:
                    answer += (part := sock.recv(65536))
                    assert part
            sock.sendall(b"GET /health HTTP/1.1\r\nHost:")
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
