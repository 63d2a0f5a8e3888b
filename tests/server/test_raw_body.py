"""Streams on the wire: chunks for clients of HTTP/1.1, the plain body for those of HTTP/1.0."""

import json
import socket
from urllib.parse import urlsplit

import h11
import pytest
from tests.server.serving import serving

from alpage import Llama
from alpage.server.app import Surroundings
from alpage.server.pool import Pool

BODY = json.dumps(
    {"model": "smollm2", "prompt": "The sea", "max_tokens": 5, "stream": True, "ignore_eos": True}
).encode()


def ask(url: str, version: str) -> bytes:
    """All bytes that come back on one connection, until the server closes it."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        connection.sendall(
            f"POST /v1/completions HTTP/{version}\r\nhost: {place.netloc}\r\n"
            f"connection: close\r\ncontent-type: application/json\r\n"
            f"content-length: {len(BODY)}\r\n\r\n".encode()
            + BODY
        )
        found = b""
        while data := connection.recv(65536):
            found += data
        return found


def texts(body: bytes) -> list[str]:
    events = [e.removeprefix(b"data: ") for e in body.split(b"\n\n") if e.startswith(b"data: {")]
    return [choice["text"] for e in events for choice in json.loads(e)["choices"]]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_stream_is_framed_as_its_client_knows_it(llm: Llama, version: str) -> None:
    pool = Pool.of({"smollm2": llm})
    with serving(Surroundings(pool=pool, local=True)) as running:
        raw = ask(running.url, version)
    head, _, rest = raw.partition(b"\r\n\r\n")
    chunked = b"transfer-encoding: chunked" in head.lower()
    assert chunked == (version == "1.1")
    client = h11.Connection(h11.CLIENT)
    client.send(
        h11.Request(method="POST", target="/", headers=[("host", "x")], http_version=b"1.1")
    )
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    client.receive_data(b"")
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += bytes(event.data)
    assert body.endswith(b"data: [DONE]\n\n")
    assert len([text for text in texts(body) if text]) >= 4
    if not chunked:
        assert rest == body
