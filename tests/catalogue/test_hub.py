"""Talking to a hub: what arrives is right, whatever happens to the connection on the way."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.catalogue import hub_models
from tests.catalogue.hub_models import GGUF, hub_for_this_process
from tests.catalogue.hub_server import HubServer, git_oid

from alpage.catalogue.hub import CutError, Hub, Repository, verify
from alpage.catalogue.hub_files import RemoteFile
from alpage.catalogue.hub_name import require_hub_name
from alpage.catalogue.partial import Partial
from alpage.core.errors import DownloadError, NotFoundError

NAME = require_hub_name("org/tiny")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_for_this_process(tmp_path, monkeypatch) as server:
        server.repo("org/tiny", hub_models.folder() | {"tiny.gguf": GGUF})
        yield server


def remote(repository: Repository, path: str) -> RemoteFile:
    return next(file for file in repository.files if file.path == path)


def bring(hub: Hub, repository: Repository, path: str, target: Path) -> str:
    """Fetch to the end and verify; the SHA-256."""
    file = remote(repository, path)
    with Partial(target, file.size) as partial:
        hub.fetch(repository, file, partial, lambda here: None)
    return verify(target, file)


def test_the_servers_own_client_understands_this_server(server: HubServer, tmp_path: Path) -> None:
    """The judge of the hub that all these tests run against."""
    import huggingface_hub

    # By name: the library read its default when something imported it.
    client = huggingface_hub.HfApi(endpoint=server.endpoint)
    info = client.model_info("org/tiny", files_metadata=True)
    assert info.sha == server.repos["org/tiny"].refs["main"]
    for path in ("tiny.gguf", "config.json"):
        got = client.hf_hub_download("org/tiny", path, cache_dir=tmp_path / "theirs")
        assert Path(got).read_bytes() == server.repos["org/tiny"].commits[info.sha][path]
    server.token = "hf_secret"
    server.repo("org/gated", hub_models.folder(), gated=True)
    with pytest.raises(huggingface_hub.errors.GatedRepoError):
        client.hf_hub_download("org/gated", "config.json", cache_dir=tmp_path / "theirs")


def test_a_repository(server: HubServer) -> None:
    repository = Hub().repository(NAME)
    assert repository.commit == server.repos["org/tiny"].refs["main"]
    assert repository.licence == "cc0-1.0"
    gguf, config = remote(repository, "tiny.gguf"), remote(repository, "config.json")
    assert (gguf.size, gguf.sha256) == (len(GGUF), hashlib.sha256(GGUF).hexdigest())
    assert (config.sha256, config.git) == (None, git_oid(hub_models.folder()["config.json"]))
    assert {asked.authorization for asked in server.asked} == {None}


def test_a_connection_that_dies_at_every_offset(server: HubServer, tmp_path: Path) -> None:
    hub = Hub()
    repository = hub.repository(NAME)
    content = hub_models.folder()["config.json"]
    for offset in range(len(content) + 1):
        died: list[int] = []

        def cut(path: str, start: int, offset: int = offset, died: list[int] = died) -> int | None:
            if died:
                return None
            died.append(start)
            return offset

        server.cut = cut
        bring(hub, repository, "config.json", tmp_path / str(offset))
        assert (tmp_path / str(offset)).read_bytes() == content
        last = server.fetched("config.json")[-1]
        if 0 < offset < len(content):
            assert last.range == f"bytes={offset}-"


def test_a_large_file_whose_connection_dies_anywhere(server: HubServer, tmp_path: Path) -> None:
    hub, chance = Hub(), random.Random(3)
    repository = hub.repository(NAME)
    for number in range(40):
        server.cut = lambda path, start: chance.randrange(0, 40_000)
        target = tmp_path / str(number)
        try:
            found = bring(hub, repository, "tiny.gguf", target)
        except CutError:  # five deaths at once without a byte: goes on where it was
            found = bring(hub, repository, "tiny.gguf", target)
        assert found == hashlib.sha256(GGUF).hexdigest()


def test_one_byte_at_a_time(server: HubServer, tmp_path: Path) -> None:
    hub = Hub()
    server.cut = lambda path, start: 1
    bring(hub, hub.repository(NAME), "LICENSE", tmp_path / "got")
    ranges = [asked.range for asked in server.fetched("LICENSE")]
    assert ranges == [None, *(f"bytes={n}-" for n in range(1, len(b"Do what you like.\n")))]


@pytest.mark.parametrize("stated", [True, False])
def test_a_server_that_knows_no_ranges(server: HubServer, tmp_path: Path, stated: bool) -> None:
    hub = Hub()
    repository = hub.repository(NAME)
    server.ranges, server.stated_length = False, stated
    deaths = [10, 2000, 70_000]
    server.cut = lambda path, start: deaths.pop(0) if deaths else None
    bring(hub, repository, "tiny.gguf", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == GGUF


def test_what_an_earlier_process_left_is_gone_on_from(server: HubServer, tmp_path: Path) -> None:
    hub = Hub()
    repository = hub.repository(NAME)
    server.cut = lambda path, start: 1000 if start == 0 else 0
    with pytest.raises(CutError, match="1,000 bytes of the file are kept, pull again to go on"):
        bring(hub, repository, "tiny.gguf", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == GGUF[:1000]
    server.cut = lambda path, start: None
    server.asked.clear()
    bring(hub, repository, "tiny.gguf", tmp_path / "got")
    assert server.fetched("tiny.gguf")[-1].range == "bytes=1000-"
    (tmp_path / "longer").write_bytes(GGUF + b"more than there can be")
    bring(hub, repository, "tiny.gguf", tmp_path / "longer")


@pytest.mark.parametrize("path", ["tiny.gguf", "config.json"])
@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("change", ["shorter", "longer", "other"])
def test_something_else_arrives(
    server: HubServer, tmp_path: Path, path: str, stated: bool, change: str
) -> None:
    hub = Hub()
    repository = hub.repository(NAME)
    right = server.repos["org/tiny"].commits[repository.commit][path]
    wrong = {"shorter": right[:-1], "longer": right + b"!", "other": right[:-1] + b"!"}[change]
    server.served[path], server.stated_length = wrong, stated
    with pytest.raises(DownloadError) as caught:
        bring(hub, repository, path, tmp_path / "got")
    assert path in str(caught.value)
    expected = {"shorter": "", "longer": "bytes on the hub", "other": "is not the file that was"}
    assert expected[change] in str(caught.value)
    assert (tmp_path / "got").stat().st_size <= len(right) + (1 << 20)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X-Repo-Commit": "0" * 40}, "sends tiny.gguf of commit 0000"),
        ({"X-Linked-Etag": '"abc"'}, "has another tiny.gguf than it lists: SHA-256 abc, not"),
        ({"X-Linked-Size": "7"}, "has 7 bytes on the hub, but should have"),
    ],
)
def test_headers_that_disagree_stop_it_before_a_byte(
    server: HubServer, tmp_path: Path, headers: dict[str, str], message: str
) -> None:
    hub = Hub()
    repository = hub.repository(NAME)
    server.headers = headers
    with pytest.raises(DownloadError, match=message):
        bring(hub, repository, "tiny.gguf", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b""


def test_a_server_that_is_busy(server: HubServer, tmp_path: Path) -> None:
    server.api_refusals = [(500, {}), (429, {"Retry-After": "0"}), (503, {})]
    hub = Hub()
    repository = hub.repository(NAME)
    server.refusals = [(429, {}), (500, {}), (502, {})]
    bring(hub, repository, "tiny.gguf", tmp_path / "got")
    server.refusals = [(500, {})] * 5
    with pytest.raises(CutError, match="failed for org/tiny: it answers 500"):
        bring(hub, repository, "tiny.gguf", tmp_path / "again")
    server.api_refusals = [(429, {"Retry-After": "3600", "X-Error-Message": "slow down"})]
    with pytest.raises(CutError, match="it answers 429 slow down"):  # nobody waits for an hour
        hub.repository(NAME)


def test_the_token_goes_to_the_hub_alone(server: HubServer, tmp_path: Path) -> None:
    server.token = "hf_secret"
    server.repo("org/gated", {"tiny.gguf": GGUF}, gated=True)
    (tmp_path / "token").write_text("hf_secret\n")
    hub = Hub()
    assert hub.logged_in
    bring(hub, hub.repository(require_hub_name("org/gated")), "tiny.gguf", tmp_path / "got")
    at_cdn = [asked for asked in server.asked if asked.path.startswith("/cdn")]
    assert {asked.authorization for asked in at_cdn} == {None}
    rest = [asked for asked in server.asked if asked not in at_cdn]
    assert {asked.authorization for asked in rest} == {"Bearer hf_secret"}
    assert {asked.host.partition(":")[0] for asked in at_cdn} == {"localhost"}


@pytest.mark.parametrize(
    ("name", "token", "kind", "messages"),
    [
        ("org/gated", None, DownloadError,
         ["org/gated is gated", "/org/gated in a browser", "hf auth login (or set HF_TOKEN)"]),
        ("org/private", None, NotFoundError, ["or it is private", "you are not logged in"]),
        ("org/none", "hf_secret", NotFoundError, ["has no model org/none, or it is private"]),
        ("org/tiny", "hf_wrong", DownloadError, ["does not accept your login", "hf auth login"]),
        ("org/tiny@v9", None, NotFoundError, ["org/tiny has no revision 'v9'"]),
    ],
)  # fmt: skip
def test_doors_that_are_shut(
    server: HubServer, tmp_path: Path, name: str, token: str | None, kind: type[Exception],
    messages: list[str],
) -> None:  # fmt: skip
    server.token = "hf_secret"
    server.repo("org/gated", {"tiny.gguf": GGUF}, gated=True)
    server.repo("org/private", {"tiny.gguf": GGUF}, private=True)
    if token:
        (tmp_path / "token").write_text(token)
    with pytest.raises(kind) as caught:
        hub = Hub()
        bring(hub, hub.repository(require_hub_name(name)), "tiny.gguf", tmp_path / "got")
    for message in messages:
        assert message in str(caught.value)
    assert token is None or token not in str(caught.value)


def test_a_pinned_commit_is_the_one_that_comes(server: HubServer) -> None:
    repo = server.repos["org/tiny"]
    old = repo.refs["main"]
    new = repo.commit(hub_models.folder(seed=1), "v2")
    assert Hub().repository(require_hub_name(f"org/tiny@{old}")).commit == old
    assert Hub().repository(require_hub_name("org/tiny@v2")).commit == new
    server.change = lambda answer: answer | {"sha": new}
    with pytest.raises(DownloadError, match="a pinned model never changes"):
        Hub().repository(require_hub_name(f"org/tiny@{old}"))


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: b"<html>log in to the wifi</html>",
        lambda answer: b"[]",
        lambda answer: b"[" * 100_000,
        lambda answer: answer | {"sha": None},
        lambda answer: answer | {"sha": "x" * 40},
        lambda answer: answer | {"siblings": None},
        lambda answer: answer | {"siblings": [7]},
        lambda answer: answer | {"siblings": [{"rfilename": "a.gguf"}]},
        lambda answer: answer | {"siblings": [{"rfilename": "a", "size": -1, "blobId": "a" * 40}]},
        lambda answer: answer | {"siblings": [{"rfilename": "a", "size": 1, "blobId": "../a"}]},
        lambda answer: answer | {"siblings": [{"rfilename": "a", "lfs": {"size": 1 << 60}}]},
        lambda answer: answer | {"cardData": "MIT"},
    ],
)
def test_an_answer_that_makes_no_sense(server: HubServer, change: object) -> None:
    server.change = change  # type: ignore[assignment]
    with pytest.raises(DownloadError, match="the hub's answer about org/tiny is damaged"):
        Hub().repository(NAME)


def test_names_that_lead_elsewhere_are_not_seen(server: HubServer) -> None:
    evil = ["../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "a\\x.gguf", "c:x.gguf", "a//x.gguf",
            "x\n.gguf", "a/./x.gguf", "...", "x" * 300]  # fmt: skip
    siblings = [{"rfilename": name, "size": 1, "blobId": "a" * 40} for name in [*evil, "fine.gguf"]]
    server.change = lambda answer: answer | {"siblings": siblings}
    assert [file.path for file in Hub().repository(NAME).files] == ["fine.gguf"]


def test_a_hub_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HubServer
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CutError, match=r"http://127.0.0.1:1 failed for org/tiny: "):
        Hub().repository(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://")
    with pytest.raises(DownloadError):
        Hub().repository(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set, so nothing can be downloaded"):
        Hub()
