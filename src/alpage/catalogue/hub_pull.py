"""Pulling a model from a hub: chosen, checked, announced, fetched, verified, and only then here.

What a lost connection or Ctrl-C leaves is kept apart under `partial/` and finished by the next
pull; every other failure (something else arrived, the disk is full, no Llama model) leaves nothing.
"""

import contextlib
import dataclasses
import datetime
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alpage.catalogue import store
from alpage.catalogue.hub import CutError, Hub, Repository, verify
from alpage.catalogue.hub_files import CONFIG, INDEX, Choice, RemoteFile, choose
from alpage.catalogue.hub_name import HubName
from alpage.catalogue.partial import Partial
from alpage.catalogue.store import HubModel, StoredFile
from alpage.core.errors import (
    AlpageError,
    DownloadError,
    FormatError,
    NotFoundError,
    StorageError,
    UnsupportedError,
)
from alpage.core.paths import storage_errors
from alpage.weights.contents import Lineage
from alpage.weights.fields import Fields, read_json
from alpage.weights.folder_text import read_card
from alpage.weights.huggingface import check_config, shards_of
from alpage.weights.source import open_model

Progress = Callable[[int, int], None]
_MAX_FIRST = 1 << 26
"""Bytes of a config or index."""
_GGUF_LLAMA = ("llama", "mistral")
"""Values of model_type whose GGUF files are of the llama architecture."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What is about to be downloaded: said before the first large byte moves."""

    name: HubName
    endpoint: str
    commit: str
    label: str
    licence: str | None
    parameters: int | None
    size: int
    """Bytes of all files of the model."""
    missing: int
    """Bytes that have to be fetched: some may be here already."""
    folder: Path


def pull_hub(
    name: HubName,
    home: Path,
    *,
    progress: Progress | None = None,
    announce: Callable[[Offer], None] | None = None,
    update: bool = False,
    offline: bool = False,
) -> HubModel:
    """Have the model `name` in the cache under `home`, every file verified.

    A model that is here stays at its recorded commit, and is repaired from that commit if it is
    damaged; with `update` the hub is asked what the name's revision means now. `offline` never
    asks the hub. Raises `NotFoundError`, `DownloadError`, `StorageError`, `UnsupportedError`
    (no Llama model) or `UsageError` (several models to choose from).
    """
    if not update and (here := _whole(name, home)) is not None:
        return here  # before the lock: this much works in a read-only cache too
    if offline:
        raise _not_offline(name, home, update)
    with store.repository_lock(name.repository, home):
        if not update and (here := _whole(name, home)) is not None:
            return here  # another process has pulled it meanwhile
        recorded = _recorded(name, home)
        asked = name
        if recorded is not None and not update:
            asked = dataclasses.replace(name, revision=recorded.commit)
        hub = Hub()
        repository = hub.repository(asked)
        if recorded and repository.commit == recorded.commit and (here := _whole(name, home)):
            return here  # there is nothing newer
        return _Pull(hub, repository, name, home, progress).run(announce)


def _recorded(name: HubName, home: Path) -> HubModel | None:
    try:
        return store.find(name, home)
    except FormatError:  # a damaged manifest is as good as none
        return None


def _whole(name: HubName, home: Path) -> HubModel | None:
    """The model that is here, if every file is what it should be to the last bit."""
    model = _recorded(name, home)
    if model is None:
        return None
    folder = model.folder(home)
    return model if all(store.sound(folder / file.path, file) for file in model.files) else None


def _not_offline(name: HubName, home: Path, update: bool) -> AlpageError:
    if update:
        return DownloadError(f"what is newer than {name.text} can only be asked online")
    if _recorded(name, home) is None:
        return NotFoundError(f"{name.text} is not on this machine, and --offline downloads nothing")
    return DownloadError(
        f"{name.text} is damaged, and --offline downloads nothing; without it this pull repairs it"
    )


class _Pull:
    """One pull of one commit. The repository's lock is held."""

    def __init__(
        self, hub: Hub, repository: Repository, name: HubName, home: Path,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self._hub, self._repository = hub, repository
        self._name, self._home = name, home
        self._progress = progress or (lambda done, total: None)
        self._done, self._total = 0, 0
        self._added: list[str] = []
        self._begun: list[Path] = []

    def run(self, announce: Callable[[Offer], None] | None) -> HubModel:
        """All of it, from the choice to the manifest."""
        choice = choose(self._name, self._repository.files)
        try:
            first = [self._bring(_small(file)) for file in choice.first]
            parameters, weights = self._check(choice, first)
            rest = [*choice.others, *weights]
            missing = self._check_space(rest)
            if announce is not None:
                announce(self._offer(choice, parameters, rest, missing))
            self._total = sum(file.size for file in rest) or 1
            files = {file.path: file for file in (*choice.first, *rest)}
            stored = {file.path: file for file in (*first, *(self._bring(f) for f in rest))}
            return self._finish(choice, files, stored)
        except CutError:
            raise
        except Exception:
            self._leave_nothing()
            raise

    def _check(
        self, choice: Choice, first: list[StoredFile]
    ) -> tuple[int | None, tuple[RemoteFile, ...]]:
        """Refuse what is no Llama model; the number of weights if known, and the files of them."""
        blobs = {file.path: store.blob(self._home, file.sha256) for file in first}
        shown = Path(self._name.repository, CONFIG)
        if choice.kind == "gguf":
            self._check_gguf(blobs.get(CONFIG))
            return None, choice.weights
        fields = Fields(shown, read_json(blobs[CONFIG], _MAX_FIRST).values)
        parameters = check_config(fields).parameter_count
        if INDEX not in blobs:
            return parameters, choice.weights
        candidates = {file.path: file for file in choice.weights}
        shards = shards_of(blobs[INDEX])
        for shard in shards:
            if shard not in candidates:
                raise FormatError(f"{self._name.text} lacks {shard}, which its {INDEX} asks for")
        return parameters, tuple(candidates[shard] for shard in shards)

    def _check_gguf(self, config: Path | None) -> None:
        kind = self._repository.architecture
        if kind is None and config is not None:
            with contextlib.suppress(FormatError):  # beside a GGUF file it is only a hint
                found = read_json(config, _MAX_FIRST).word("model_type")
                kind = "llama" if found in _GGUF_LLAMA else found
        if kind not in (None, "llama"):
            raise UnsupportedError(f"{self._name.text}: this is a {kind} model; Alpage runs llama")

    def _check_space(self, files: list[RemoteFile]) -> int:
        """Bytes to fetch; StorageError if there is no room for them."""
        needed = sum(self._missing(file) for file in files)
        with storage_errors(f"prepare {self._home}"):
            self._home.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._home).free
        if free < needed:
            raise StorageError(
                f"pulling {self._name.text} takes {needed / 1e6:,.0f} MB of disk space in "
                f"{self._home}; {free / 1e6:,.0f} MB are free"
            )
        return needed

    def _missing(self, file: RemoteFile) -> int:
        if file.sha256 and store.blob(self._home, file.sha256).is_file():
            return 0
        partial = self._partial(file)
        with contextlib.suppress(OSError):
            return max(0, file.size - partial.stat().st_size)
        return file.size

    def _partial(self, file: RemoteFile) -> Path:
        return store.partials(self._name.repository, self._home) / file.identity

    def _offer(
        self, choice: Choice, parameters: int | None, rest: list[RemoteFile], missing: int
    ) -> Offer:
        size = sum(file.size for file in (*choice.first, *rest))
        folder = store.place(self._name, self._home)
        return Offer(
            self._name, self._repository.endpoint, self._repository.commit, choice.label,
            self._repository.licence, parameters, size, missing, folder,
        )  # fmt: skip

    def _bring(self, file: RemoteFile) -> StoredFile:
        """Have the content of `file` in the store, verified."""
        if file.sha256 is not None:
            known = StoredFile(file.path, file.size, file.sha256)
            if store.sound(store.blob(self._home, file.sha256), known):
                self._added.append(file.sha256)  # it may be an orphan of an earlier attempt
                self._advance(file.size, file.size)
                return known
        sha256 = self._download(file)
        self._added.append(sha256)
        self._advance(file.size, file.size)
        return StoredFile(file.path, file.size, sha256)

    def _download(self, file: RemoteFile) -> str:
        path = self._partial(file)
        self._begun.append(path)
        while True:
            with Partial(path, file.size) as partial:
                self._hub.fetch(
                    self._repository, file, partial, lambda here: self._advance(here, 0)
                )
                partial.sync()
                resumed = partial.resumed
            try:
                sha256 = verify(path, file)
            except DownloadError:
                store.delete(path)
                if resumed:  # what an earlier process left may be what is wrong
                    continue
                raise
            store.put(path, sha256, self._home)
            return sha256

    def _advance(self, here: int, finished: int) -> None:
        """Tell how far all is: `here` bytes of the present file, of which `finished` are behind."""
        if self._total:
            self._progress(min(self._done + here, self._total), self._total)
            self._done += finished

    def _finish(
        self, choice: Choice, files: dict[str, RemoteFile], stored: dict[str, StoredFile]
    ) -> HubModel:
        """Make the model appear, once it has been opened and found to be one."""
        while True:
            with store.store_lock(self._home):
                gone = [
                    file for path, file in files.items()
                    if not store.blob(self._home, stored[path].sha256).is_file()
                ]  # fmt: skip
                if not gone:
                    return self._appear(choice, tuple(stored.values()))
            for file in gone:  # an rm of another name took them from under us
                stored[file.path] = self._bring(file)

    def _appear(self, choice: Choice, files: tuple[StoredFile, ...]) -> HubModel:
        """Links, a look inside, manifest; then what only the old commit needed goes."""
        before = _recorded(self._name, self._home)
        root = store.place(self._name, self._home) / self._repository.commit[:12]
        folder = root / self._name.short
        try:
            store.arrange(folder, files, self._home)
            model = self._look(choice, folder, files)
            store.record(model, self._home)
        except BaseException:
            if before is None or before.commit != self._repository.commit:
                shutil.rmtree(root, ignore_errors=True)
                with contextlib.suppress(OSError):
                    root.parent.rmdir()
            raise
        store.prune(model, self._home)
        if before is not None:
            store.drop((file.sha256 for file in before.files), self._home)
        with contextlib.suppress(OSError):
            store.partials(self._name.repository, self._home).rmdir()
        return model

    def _look(self, choice: Choice, folder: Path, files: tuple[StoredFile, ...]) -> HubModel:
        opened = choice.weights[0].path if choice.kind == "gguf" else ""
        card = read_card(folder)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with open_model(folder / opened if opened else folder) as source:
            theirs = source.lineage
            lineage = Lineage(
                theirs.authors,
                theirs.base_models or card.lineage.base_models,
                theirs.datasets or card.lineage.datasets,
                (*theirs.contributions, f"published as {self._name.repository}"),
            )
            return HubModel(
                self._name, self._repository.endpoint, self._repository.commit, opened, files,
                source.name, source.format, source.quantization, source.config.parameter_count,
                source.config.context_length,
                card.licence or source.licence or self._repository.licence, lineage, now,
            )  # fmt: skip

    def _leave_nothing(self) -> None:
        """Take back what this pull has added and nobody else needs meanwhile."""
        with contextlib.suppress(OSError, StorageError):
            for path in self._begun:
                store.delete(path)
            store.partials(self._name.repository, self._home).rmdir()
        with contextlib.suppress(StorageError), store.store_lock(self._home):
            store.drop(self._added, self._home)


def _small(file: RemoteFile) -> RemoteFile:
    if file.size > _MAX_FIRST:
        raise FormatError(f"{file.path} has {file.size:,} bytes; that is no configuration")
    return file
