"""Which files of a repository a Llama model needs: a choice made from their names alone.

Python pickles (`.bin`, `.pth`) are never among them: opening one can run code.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from alpage.catalogue.hub_name import HubName
from alpage.core.errors import (
    AlpageError,
    FormatError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)

CONFIG = "config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_TEXT_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_RIGHTS = re.compile(
    r"(README\.md|(LICEN[CS]E|NOTICE|USE_POLICY|COPYING)([._-].*)?)", re.IGNORECASE
)
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_NO_MODEL = re.compile(r"(^|/)(mmproj|imatrix)|[._-](mmproj|imatrix)", re.IGNORECASE)
_QUANT = re.compile(
    r"(?<![A-Z0-9])(I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4|BF16|FP?16|FP?32)(?![A-Z0-9])", re.IGNORECASE
)
_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0")
"""When nobody says which: the usual balance of size and quality first."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. What it holds is known by one of two hashes before it is here."""

    path: str
    size: int
    sha256: str | None
    """Of a large file (Git LFS)."""
    git: str | None
    """Git's name of a small file: the SHA-1 of its blob."""

    @property
    def identity(self) -> str:
        """A name for this content."""
        return f"sha256-{self.sha256}" if self.sha256 else f"git-{self.git}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What to fetch: `first` is small and decides the rest (config, index of shards)."""

    kind: Literal["folder", "gguf"]
    first: tuple[RemoteFile, ...]
    weights: tuple[RemoteFile, ...]
    """Of a folder with an index these are candidates: the index says which belong to the model."""
    others: tuple[RemoteFile, ...]
    label: str
    """For people: "safetensors", or the GGUF file's name."""


def choose(name: HubName, files: Iterable[RemoteFile]) -> Choice:
    """The files of `name`, or an error that says what the repository has instead."""
    here = {file.path: file for file in files}
    others = [file for path, file in here.items() if _RIGHTS.fullmatch(path)]
    config = tuple(here[path] for path in (CONFIG,) if path in here)
    if name.selection is None and (SINGLE in here or INDEX in here):
        if not config:
            raise FormatError(f"{name.text} has safetensors but no {CONFIG}; it cannot be run")
        texts = [here[path] for path in _TEXT_FILES if path in here]
        if SINGLE in here:
            return Choice("folder", config, (here[SINGLE],), (*texts, *others), "safetensors")
        shards = [f for p, f in here.items() if p.endswith(".safetensors") and "/" not in p]
        first = (*config, here[INDEX])
        return Choice("folder", first, tuple(shards), (*texts, *others), "safetensors")
    groups = gguf_groups(here.values())
    if not groups:
        raise _nothing_to_run(name, here)
    chosen = _select(name, groups)
    label = chosen[0].path + (f" and {len(chosen) - 1} more parts" if len(chosen) > 1 else "")
    return Choice("gguf", config, tuple(chosen), tuple(others), label)


def gguf_groups(files: Iterable[RemoteFile]) -> list[list[RemoteFile]]:
    """GGUF models, each of one file or of all its parts in order; projectors left out."""
    groups: dict[str, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if file.path.lower().endswith(".gguf") and not _NO_MODEL.search(file.path):
            part = _PART.fullmatch(file.path)
            groups.setdefault(f"{part[1]} of {part[3]}" if part else file.path, []).append(file)
    return [group for group in groups.values() if _complete(group)]


def _complete(group: list[RemoteFile]) -> bool:
    part = _PART.fullmatch(group[0].path)
    if part is None:
        return True
    numbers = [int(match[2]) for file in group if (match := _PART.fullmatch(file.path))]
    return numbers == list(range(1, int(part[3]) + 1))


def quantization_of(path: str) -> str | None:
    """The type in a GGUF file's name, in capitals: "Q4_K_M"; None where there is none."""
    found = _QUANT.findall(path.rpartition("/")[2].removesuffix(".gguf"))
    return found[-1].upper().replace("FP", "F") if found else None


def _select(name: HubName, groups: list[list[RemoteFile]]) -> list[RemoteFile]:
    wanted = name.selection
    if wanted is None:
        return _default(name, groups)
    for group in groups:
        if any(file.path == wanted for file in group):
            return group
    if wanted.lower().endswith(".gguf"):
        found = [g for g in groups if any(f.path.rpartition("/")[2] == wanted for f in g)]
    else:
        found = [g for g in groups if quantization_of(g[0].path) == wanted.upper()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{name.repository} has several files for {wanted}; give one by its whole name: "
            + _shown(found)
        )
    raise NotFoundError(f"{name.repository} has no GGUF file {wanted}. It has: {_shown(groups)}")


def _default(name: HubName, groups: list[list[RemoteFile]]) -> list[RemoteFile]:
    if len(groups) == 1:
        return groups[0]
    for kind in _PREFERRED:
        found = [group for group in groups if quantization_of(group[0].path) == kind]
        if len(found) == 1:
            return found[0]
    raise UsageError(
        f"{name.repository} holds several models; name one of them, as in "
        f"{name.repository}:{groups[0][0].path}: {_shown(groups)}"
    )


def _shown(groups: list[list[RemoteFile]]) -> str:
    texts = [f"{g[0].path} ({sum(f.size for f in g) / 1e6:,.0f} MB)" for g in groups[:20]]
    return ", ".join(texts) + (f" and {len(groups) - 20} more" if len(groups) > 20 else "")


def _nothing_to_run(name: HubName, here: dict[str, RemoteFile]) -> AlpageError:
    if name.selection is not None:
        return NotFoundError(
            f"{name.repository} has no GGUF files, so there is no {name.selection} to choose; "
            f"alpage pull {name.repository} takes its safetensors, if it has any"
        )
    if any(path.rpartition("/")[2].startswith("adapter_") for path in here):
        return UnsupportedError(
            f"{name.repository} is an adapter (LoRA), not a whole model; pull its base model"
        )
    pickles = [path for path in here if path.endswith(_PICKLES)]
    if pickles:
        return UnsupportedError(
            f"{name.repository} has its weights only as Python pickles ({pickles[0]}), which can "
            "run code when they are opened; Alpage fetches safetensors and GGUF files only. Look "
            "for a conversion of this model, or ask its makers for safetensors"
        )
    return FormatError(
        f"{name.repository} holds no model that Alpage can run: neither {SINGLE} nor a GGUF file"
    )
