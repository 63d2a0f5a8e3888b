"""A model hub on 127.0.0.1: the API that `huggingface_hub` speaks, with faults on request."""

import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_LFS = (".gguf", ".safetensors", ".bin", ".model")


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """Commits by hash, and what names mean."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=lambda: {"license": "cc0-1.0"})
    gguf: dict[str, Any] | None = None
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """A new commit that has `files`; `refs` (and main) come to mean it."""
        digest = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode())
        sha = digest.hexdigest()
        self.commits[sha] = files
        self.refs |= dict.fromkeys(("main", *refs), sha)
        return sha

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.refs.get(revision, revision)
        full = next((commit for commit in self.commits if commit.startswith(sha)), None)
        return (full, self.commits[full]) if full else None


@dataclass
class Asked:
    """One request that came."""

    method: str
    path: str
    host: str
    range: str | None
    authorization: str | None


class _Quiet(ThreadingHTTPServer):
    """Connections that die are what these tests are about: nothing is printed."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


class HubServer:
    """The hub. Files that git would keep in LFS are sent by a second host, the CDN."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[Asked] = []
        self.token: str | None = None
        """The login that opens gated and private repositories."""
        self.cut: Callable[[str, int], int | None] = lambda path, start: None
        """Bytes of a body to send before the connection dies, by path and first byte."""
        self.refusals: list[tuple[int, dict[str, str]]] = []
        """Answers to the next requests for files."""
        self.api_refusals: list[tuple[int, dict[str, str]]] = []
        self.served: dict[str, bytes] = {}
        """Contents that are sent in place of the right ones, by path."""
        self.headers: dict[str, str] = {}
        """Headers of a file's answer that are not what they should be."""
        self.ranges = True
        self.stated_length = True
        self.change: Callable[[dict[str, Any]], Any] = lambda answer: answer
        """What becomes of the answer about a repository."""
        self.halfway = threading.Event()
        self.wait_at_half: threading.Event | None = None
        """With it a body stops in its middle until the event is set."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = _Quiet(("127.0.0.1", 0), handler)
        self.port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        if self.wait_at_half is not None:
            self.wait_at_half.set()
        self._server.shutdown()
        self._server.server_close()

    def repo(self, name: str, files: dict[str, bytes], **options: Any) -> Repo:
        self.repos[name] = Repo(**options)
        self.repos[name].commit(files)
        return self.repos[name]

    def fetched(self, path: str) -> list[Asked]:
        """The requests for a file's content."""
        return [asked for asked in self.asked if asked.path.endswith(path)]

    def environment(self, folder: Any) -> dict[str, str]:
        """For a process that is to use this hub, with a login file of its own in `folder`."""
        return {
            "HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "", "HF_HUB_DOWNLOAD_TIMEOUT": "10",
        }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        path = urllib.parse.urlsplit(self.path).path
        self.hub.asked.append(
            Asked(self.command, urllib.parse.unquote(path), self.headers.get("Host", ""),
                  self.headers.get("Range"), self.headers.get("Authorization"))
        )  # fmt: skip
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            parts = [urllib.parse.unquote(part) for part in path.split("/")[1:]]
            match parts:
                case ["api", "models", org, name, "revision", revision]:
                    self._about(f"{org}/{name}", revision)
                case ["api", "models", org, name]:
                    self._about(f"{org}/{name}", "main")
                case ["api", "models", org, name, "tree", revision]:
                    self._tree(f"{org}/{name}", revision)
                case ["cdn", *rest]:
                    self._body("/".join(rest[1:]), self._content(rest))
                case [org, name, "resolve", revision, *rest]:
                    self._resolve(f"{org}/{name}", revision, "/".join(rest))
                case _:
                    self._refuse(404, {})

    def _content(self, parts: list[str]) -> bytes:
        sha = parts[0]
        for repo in self.hub.repos.values():
            for files in repo.commits.values():
                for content in files.values():
                    if hashlib.sha256(content).hexdigest() == sha:
                        return content
        return b""

    def _allowed(self, name: str, content: bool) -> Repo | None:
        """The repository, or None after an answer that refuses it."""
        repo = self.hub.repos.get(name)
        given = self.headers.get("Authorization")
        known = given is not None and given == f"Bearer {self.hub.token}"
        if given is not None and not known:
            self._refuse(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None or (repo.private and not known):
            self._refuse(404 if known else 401, {"X-Error-Code": "RepoNotFound"})
        elif repo.gated and content and not known:
            self._refuse(401, {"X-Error-Code": "GatedRepo"})
        else:
            return repo
        return None

    def _about(self, name: str, revision: str) -> None:
        if self.hub.api_refusals:
            return self._refuse(*self.hub.api_refusals.pop(0))
        repo = self._allowed(name, content=False)
        if repo is None:
            return None
        found = repo.files(revision)
        if found is None:
            return self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        sha, files = found
        answer = {
            "_id": "0", "id": name, "modelId": name, "sha": sha, "private": repo.private,
            "gated": "manual" if repo.gated else False, "tags": [], "downloads": 1, "likes": 0,
            "siblings": [_sibling(path, content) for path, content in files.items()],
            "cardData": repo.card,
        }  # fmt: skip
        if repo.gguf is not None:
            answer["gguf"] = repo.gguf
        return self._json(self.hub.change(answer))

    def _tree(self, name: str, revision: str) -> None:
        repo = self._allowed(name, content=False)
        found = repo.files(revision) if repo else None
        if found is None:
            return self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        entries = []
        for path, content in found[1].items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            sibling = _sibling(path, content)
            entry["oid"] = sibling["blobId"]
            if "lfs" in sibling:
                entry["lfs"] = {"oid": sibling["lfs"]["sha256"], "size": len(content),
                                "pointerSize": 134}  # fmt: skip
            entries.append(entry)
        return self._json(entries)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._allowed(name, content=True)
        if repo is None:
            return None
        found = repo.files(revision)
        if found is None:
            return self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        sha, files = found
        if path not in files:
            return self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        content = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{git_oid(content)}"'}
        if path.endswith(_LFS):
            digest = hashlib.sha256(content).hexdigest()
            headers["X-Linked-Etag"] = f'"{digest}"'
            headers["X-Linked-Size"] = str(len(content))
            headers["Location"] = f"http://localhost:{self.hub.port}/cdn/{digest}/{path}"
            return self._refuse(302, headers | self.hub.headers)
        return self._body(path, content, headers | self.hub.headers)

    def _body(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        if self.hub.refusals and self.command == "GET":
            return self._refuse(*self.hub.refusals.pop(0))
        content = self.hub.served.get(path, content)
        start, asked = 0, self.headers.get("Range")
        if asked and self.hub.ranges:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        if start and start >= len(content):
            return self._refuse(416, {"Content-Range": f"bytes */{len(content)}"})
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.hub.stated_length:
            self.send_header("Content-Length", str(len(content) - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        limit = self.hub.cut(path, start)
        body = content[start:] if limit is None else content[start : start + limit]
        if self.hub.wait_at_half is not None:
            half = len(body) // 2
            self.wfile.write(body[:half])
            self.hub.halfway.set()
            self.hub.wait_at_half.wait(60)
            body = body[half:]
        self.wfile.write(body)
        if limit is not None:
            self.close_connection = True
        return None

    def _json(self, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_oid(content)}
    if path.endswith(_LFS):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
    return entry


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    try:
        yield server
    finally:
        server.close()
