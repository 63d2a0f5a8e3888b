"""Pulling from a hub: here whole or not at all, pinned, shared, and never more than is needed."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.catalogue import hub_models
from tests.catalogue.hub_models import GGUF, hub_for_this_process
from tests.catalogue.hub_server import HubServer
from tests.weights.gguf_files import STRING, tiny_model
from tests.weights.test_gguf_parts import files

from alpage.catalogue import store
from alpage.catalogue.check import check_cache, sweep_leftovers
from alpage.catalogue.hub import CutError
from alpage.catalogue.hub_name import require_hub_name
from alpage.catalogue.hub_pull import Offer, pull_hub
from alpage.catalogue.listing import list_models, show
from alpage.catalogue.resolve import remove, resolve
from alpage.catalogue.store import HubModel
from alpage.core.errors import (
    DownloadError,
    FormatError,
    NotFoundError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from alpage.weights.source import open_model

FOLDER_FILES = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "model.safetensors", "README.md", "LICENSE", "NOTICE.txt",
}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_for_this_process(tmp_path, monkeypatch) as server:
        server.repo("org/tiny", hub_models.folder())
        server.repo("org/tiny-GGUF", hub_models.ggufs())
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def pull(text: str, home: Path, *, update: bool = False, offline: bool = False) -> HubModel:
    return pull_hub(require_hub_name(text), home, update=update, offline=offline)


def files_in(home: Path) -> set[str]:
    """Everything in the cache but locks, relative to it."""
    found = {path.relative_to(home) for path in home.rglob("*") if path.is_file()}
    return {path.as_posix() for path in found if path.parts[0] != "locks"}


def blobs(home: Path) -> set[str]:
    return {path.name for path in (home / "blobs").glob("*")}


def test_a_folder_is_pulled_shown_and_opened(server: HubServer, home: Path) -> None:
    steps: list[tuple[int, int]] = []
    offers: list[Offer] = []
    model = pull_hub(
        require_hub_name("org/tiny"), home, announce=offers.append,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    path = resolve("org/tiny", home)
    assert path == model.path(home)
    assert path.name == "tiny"
    assert {file.name for file in path.iterdir()} == FOLDER_FILES
    with open_model(path) as source:
        assert source.name == "tiny"
        assert source.config.dim == 32
    (offer,) = offers
    assert (offer.licence, offer.label, offer.commit) == ("cc0-1.0", "safetensors", model.commit)
    sizes = {name: len(data) for name, data in hub_models.folder().items()}
    assert offer.size == sum(sizes[name] for name in FOLDER_FILES)
    assert offer.parameters == model.parameters
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    card = show("org/tiny", home)
    assert (card.commit, card.licence, card.quantization) == (model.commit, "cc0-1.0", "F32")
    assert card.source == f"{server.endpoint}/org/tiny"
    assert card.lineage.base_models == ("nobody/base",)
    assert card.lineage.contributions == ("published as org/tiny",)
    assert not (home / "partial" / "org--tiny").exists()
    assert check_cache(home).problems == ()
    fetched = {asked.path.rpartition("/")[2] for asked in server.asked}
    assert not [name for name in fetched if name.endswith((".bin", ".pth", ".png"))]


def test_the_shards_that_the_index_names(server: HubServer, home: Path) -> None:
    server.repo("org/big", hub_models.sharded())
    path = pull("org/big", home).path(home)
    assert sorted(file.name for file in path.glob("*.safetensors")) == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    ]  # fmt: skip
    with open_model(path):
        pass


def test_one_gguf_of_many(server: HubServer, home: Path) -> None:
    model = pull("org/tiny-GGUF", home)
    assert model.path(home).name == "tiny-Q4_K_M.gguf"
    assert resolve("org/tiny-GGUF", home).read_bytes() == GGUF
    other = pull("org/tiny-GGUF:Q8_0", home)
    assert other.path(home).name == "tiny-Q8_0.gguf"
    assert [line.name for line in list_models(home) if line.kind == "hub"] == [
        "org/tiny-GGUF", "org/tiny-GGUF:Q8_0",
    ]  # fmt: skip
    remove("org/tiny-GGUF", home)
    # One of that repository is left, so its name alone means it.
    assert resolve("org/tiny-GGUF", home) == other.path(home)


def test_what_is_here_is_not_asked_for_again(server: HubServer, home: Path) -> None:
    first = pull("org/tiny", home)
    server.repos["org/tiny"].commit(hub_models.folder(seed=1))
    server.asked.clear()
    assert pull("org/tiny", home) == first
    assert pull("org/tiny", home, offline=True) == first
    assert server.asked == []


def test_damage_is_repaired_from_the_recorded_commit(server: HubServer, home: Path) -> None:
    first = pull("org/tiny", home)
    server.repos["org/tiny"].commit(hub_models.folder(seed=1))
    weights = first.path(home) / "model.safetensors"
    right = weights.read_bytes()
    weights.write_bytes(right[:-1] + b"!")
    (problem, *_) = check_cache(home).problems
    assert problem.kind == "damaged"
    assert "alpage pull org/tiny gets it again" in problem.advice
    with pytest.raises(DownloadError, match="is damaged, and --offline downloads nothing"):
        pull("org/tiny", home, offline=True)
    server.asked.clear()
    assert pull("org/tiny", home).commit == first.commit
    assert weights.read_bytes() == right
    assert len(server.fetched("model.safetensors")) == 2  # the hub and its CDN
    weights.write_bytes(right[:100])
    with pytest.raises(FormatError, match=r"it has 100 bytes and should have .* alpage pull org/t"):
        resolve("org/tiny", home)
    weights.unlink()
    with pytest.raises(FormatError, match="has disappeared; run alpage pull org/tiny again"):
        resolve("org/tiny", home)
    pull("org/tiny", home)
    manifest = store.place(first.name, home) / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(FormatError, match="run alpage pull org/tiny again"):
        resolve("org/tiny", home)
    # Which commit it was is lost with the manifest: the pull takes, and says, what is new.
    assert pull("org/tiny", home).commit != first.commit
    assert [problem.kind for problem in check_cache(home).problems] == ["orphaned"]
    assert sweep_leftovers(home) == len(right)
    assert check_cache(home).problems == ()


def test_an_update_takes_the_new_and_frees_the_old(server: HubServer, home: Path) -> None:
    first = pull("org/tiny", home)
    assert pull("org/tiny", home, update=True) == first
    pinned = pull(f"org/tiny@{first.commit}", home)
    commit = server.repos["org/tiny"].commit(hub_models.folder(seed=1))
    second = pull("org/tiny", home, update=True)
    assert second.commit == commit
    assert not first.folder(home).parent.exists()
    assert resolve(f"org/tiny@{first.commit}", home) == pinned.path(home)
    before = blobs(home)
    remove(f"org/tiny@{first.commit}", home)
    old = {file.sha256 for file in first.files} - {file.sha256 for file in second.files}
    assert before - blobs(home) == {f"sha256-{sha256}" for sha256 in old}
    assert check_cache(home).problems == ()


def test_a_pinned_pull_never_changes(server: HubServer, home: Path) -> None:
    repo = server.repos["org/tiny"]
    first = repo.refs["main"]
    repo.refs["v1"] = first
    tag = pull("org/tiny@v1", home)
    repo.commit(hub_models.folder(seed=1), "v1")  # somebody moves the tag
    assert pull("org/tiny@v1", home).commit == first == tag.commit
    assert pull(f"org/tiny@{first}", home).commit == first
    assert pull(f"org/tiny@{first}", home, update=True).commit == first


def test_contents_are_kept_once(server: HubServer, home: Path) -> None:
    server.repo("other/copy-GGUF", {"copy.gguf": GGUF})
    one = pull("org/tiny-GGUF", home)
    server.asked.clear()
    two = pull("other/copy-GGUF", home)
    assert server.fetched("copy.gguf") == []
    assert one.path(home).samefile(two.path(home))
    assert remove("org/tiny-GGUF", home) < len(GGUF)
    assert two.path(home).read_bytes() == GGUF
    assert check_cache(home).problems == ()
    assert remove("other/copy-GGUF", home) == len(GGUF)
    assert files_in(home) == set()


def test_a_file_system_without_hard_links(
    server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    model = pull("org/tiny", home)
    assert (model.path(home) / "model.safetensors").is_symlink()
    with open_model(resolve("org/tiny", home)):
        pass
    assert check_cache(home).problems == ()
    remove("org/tiny", home)
    assert files_in(home) == set()
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(StorageError, match="cannot link"):
        pull("org/tiny", home)
    assert files_in(home) == set()


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        (hub_models.folder(model_type="qwen2"), UnsupportedError,
         "org/x/config.json: this is a qwen2 model; Alpage runs llama"),
        (hub_models.folder(attention_bias=True), UnsupportedError, "attention_bias is true"),
        (hub_models.folder(rope_scaling={"rope_type": "yarn", "factor": 2.0}), UnsupportedError,
         "rope scaling 'yarn' is not supported"),
        (hub_models.folder(quantization_config={"quant_method": "gptq"}), UnsupportedError, "gptq"),
        (hub_models.folder() | {"config.json": b"{"}, FormatError, "is not valid JSON"),
    ],
)  # fmt: skip
def test_other_models_are_refused_before_their_weights(
    server: HubServer, home: Path, files: dict[str, bytes], kind: type[Exception], message: str
) -> None:
    server.repo("org/x", files)
    with pytest.raises(kind, match=message):
        pull("org/x", home)
    assert server.fetched("model.safetensors") == []
    assert files_in(home) == set()


def test_gguf_files_of_other_architectures(server: HubServer, home: Path) -> None:
    server.repo("org/q", {"q.gguf": GGUF}, gguf={"architecture": "qwen2"})
    with pytest.raises(UnsupportedError, match="org/q: this is a qwen2 model; Alpage runs llama"):
        pull("org/q", home)
    assert server.fetched("q.gguf") == []
    server.repo("org/c", {"c.gguf": GGUF, "config.json": b'{"model_type": "gemma2"}'})
    with pytest.raises(UnsupportedError, match="this is a gemma2 model"):
        pull("org/c", home)
    # Where nobody says it before, the file does.
    other = tiny_model().set("general.architecture", STRING, "phi3").to_bytes()
    server.repo("org/p", {"p.gguf": other})
    with pytest.raises(UnsupportedError, match="this is a phi3 model"):
        pull("org/p", home)
    assert files_in(home) == set()


@pytest.mark.parametrize("lie", [b"!", b"?" * 100])
def test_something_else_arrives_and_nothing_is_kept(
    server: HubServer, home: Path, lie: bytes
) -> None:
    right = hub_models.folder()["model.safetensors"]
    server.served["model.safetensors"] = right[: -len(lie)] + lie
    with pytest.raises(
        DownloadError, match=r"model.safetensors is not the file .*nothing was kept"
    ):
        pull("org/tiny", home)
    assert files_in(home) == set()
    server.served.clear()
    pull("org/tiny", home)


def test_a_cut_pull_is_finished_by_the_next(server: HubServer, home: Path) -> None:
    server.cut = lambda path, start: (0 if start else 5000) if path.endswith("tensors") else None
    with pytest.raises(CutError, match="5,000 bytes of the file are kept"):
        pull("org/tiny", home)
    with pytest.raises(NotFoundError, match="alpage pull org/tiny downloads it"):
        resolve("org/tiny", home)
    kinds = {problem.kind for problem in check_cache(home).problems}
    assert kinds == {"leftover", "orphaned"}
    server.cut = lambda path, start: None
    server.asked.clear()
    pull("org/tiny", home)
    assert server.fetched("model.safetensors")[-1].range == "bytes=5000-"
    assert check_cache(home).problems == ()


def test_a_cut_pull_of_a_gguf_in_parts(server: HubServer, home: Path) -> None:
    """The first part is here, the second was cut: only what is missing is asked for again."""
    contents = {f"big-Q8_0-{i:05}-of-00003.gguf": f.to_bytes() for i, f in enumerate(files(), 1)}
    server.repo("org/big", {"README.md": hub_models.CARD.encode(), **contents})
    first, second, _ = contents
    server.cut = lambda path, start: (0 if start else 3000) if path == second else None
    with pytest.raises(CutError, match="3,000 bytes of the file are kept"):
        pull("org/big", home)
    server.cut = lambda path, start: None
    server.asked.clear()
    path = pull("org/big", home).path(home)
    assert not [asked for asked in server.fetched(first) if "cdn" in asked.path]
    assert server.fetched(second)[-1].range == "bytes=3000-"
    assert check_cache(home).problems == ()
    original = tiny_model().write(home.parent / "whole.gguf")
    with open_model(path) as source, open_model(original) as whole:
        assert source.tensors.keys() == whole.tensors.keys()
        for name, tensor in source.tensors.items():
            assert np.array_equal(tensor.dequantize(), whole.tensors[name].dequantize())


def test_a_partial_file_that_was_damaged_meanwhile(server: HubServer, home: Path) -> None:
    server.cut = lambda path, start: (0 if start else 5000) if path.endswith("tensors") else None
    with pytest.raises(CutError):
        pull("org/tiny", home)
    (partial,) = (home / "partial" / "org--tiny").iterdir()
    partial.write_bytes(bytes(5000))
    server.cut = lambda path, start: None
    pull("org/tiny", home)
    assert check_cache(home).problems == ()


def test_a_cut_download_can_be_removed(server: HubServer, home: Path) -> None:
    server.cut = lambda path, start: (0 if start else 5000) if path.endswith("tensors") else None
    with pytest.raises(CutError):
        pull("org/tiny", home)
    assert remove("org/tiny", home) == 5000
    with pytest.raises(NotFoundError, match="org/tiny is not on this machine; nothing was removed"):
        remove("org/tiny", home)


@pytest.mark.parametrize("seed", range(4))
def test_connections_that_die_all_the_time(server: HubServer, home: Path, seed: int) -> None:
    chance = random.Random(seed)
    server.cut = lambda path, start: chance.randrange(1, 20_000)
    model = pull("org/tiny", home)
    assert {file.path for file in model.files} == FOLDER_FILES
    assert check_cache(home).problems == ()


def test_offline(server: HubServer, home: Path) -> None:
    with pytest.raises(NotFoundError, match="is not on this machine, and --offline downloads noth"):
        pull("org/tiny", home, offline=True)
    with pytest.raises(DownloadError, match="can only be asked online"):
        pull("org/tiny", home, offline=True, update=True)
    assert server.asked == []


def test_space_is_checked_before(
    server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Free)
    with pytest.raises(StorageError, match=r"org/tiny takes 0 MB of disk space .* 0 MB are free"):
        pull("org/tiny", home)
    assert server.fetched("model.safetensors") == []
    assert files_in(home) == set()


class _Free:
    free = 1000


def test_a_removal_in_the_middle_of_another_pull(
    server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another name has already may go at any moment: then it is fetched after all."""
    server.repo("other/copy-GGUF", {"copy.gguf": GGUF})
    pull("org/tiny-GGUF", home)
    real = store.sound

    def and_then_it_goes(path: Path, file: store.StoredFile) -> bool:
        found = real(path, file)
        if found and path.parent.name == "blobs":
            monkeypatch.setattr(store, "sound", real)
            remove("org/tiny-GGUF", home)
        return found

    monkeypatch.setattr(store, "sound", and_then_it_goes)
    model = pull("other/copy-GGUF", home)
    assert model.path(home).read_bytes() == GGUF
    assert server.fetched("copy.gguf")
    assert check_cache(home).problems == ()


def test_a_removal_under_a_running_model(server: HubServer, home: Path) -> None:
    pull("org/tiny", home)
    with open_model(resolve("org/tiny", home)) as source:
        before = source.tensors["output.weight"].dequantize().copy()
        remove("org/tiny", home)
        assert (source.tensors["output.weight"].dequantize() == before).all()
    with pytest.raises(NotFoundError):
        resolve("org/tiny", home)


def test_a_repository_of_pickles(server: HubServer, home: Path) -> None:
    server.repo("org/old", {"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    with pytest.raises(UnsupportedError, match="only as Python pickles"):
        pull("org/old", home)
    server.repo("org/many", {"a-F16.gguf": GGUF, "b-F16.gguf": GGUF})
    with pytest.raises(UsageError, match="holds several models"):
        pull("org/many", home)


def test_the_login_is_never_written_down(server: HubServer, home: Path, tmp_path: Path) -> None:
    server.token = "hf_secret_of_the_user"
    server.repos["org/tiny"].gated = True
    (tmp_path / "token").write_text(server.token)
    pull("org/tiny", home)
    for path in home.rglob("*"):
        assert not path.is_file() or server.token.encode() not in path.read_bytes()


def test_an_index_that_names_what_is_not_there(server: HubServer, home: Path) -> None:
    files = hub_models.sharded()
    del files["model-00002-of-00002.safetensors"]
    server.repo("org/big", files)
    with pytest.raises(FormatError, match=r"lacks model-00002-of-00002.safetensors, which its"):
        pull("org/big", home)
    index = json.dumps({"weight_map": {"x": "../../evil.safetensors"}}).encode()
    server.repo("org/evil", files | {"model.safetensors.index.json": index})
    with pytest.raises(FormatError, match="is not a plain name of a safetensors file"):
        pull("org/evil", home)
    assert files_in(home) == set()
