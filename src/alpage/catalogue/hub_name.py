"""Names of models of a hub: `ORG/NAME[@REVISION][:FILE.gguf|:QUANT]`."""

import re
from dataclasses import dataclass

from alpage.core.errors import UsageError
from alpage.weights.fields import is_plain

DEFAULT_REVISION = "main"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(
    rf"(?P<repository>{_PART}/{_PART})(?:@(?P<revision>[^@:\s]+))?(?::(?P<selection>\S.*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubName:
    """A model of a hub: the repository, which revision of it, and which of its GGUF files."""

    repository: str
    revision: str = DEFAULT_REVISION
    """A branch, a tag or a commit."""
    selection: str | None = None
    """A GGUF file of the repository, or a type of quantisation such as Q4_K_M."""

    @property
    def text(self) -> str:
        """As a person types it; the default revision is left out."""
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{self.repository}{revision}{f':{self.selection}' if self.selection else ''}"

    @property
    def key(self) -> str:
        """A folder's name for it: the same on every file system, and different for each name."""
        import hashlib  # loads OpenSSL; a path or a name of the catalogue needs none

        digest = hashlib.sha256(self.text.encode()).hexdigest()[:10]
        return f"{self.repository.replace('/', '--')}--{digest}"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a full commit hash, which can never mean something else."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def short(self) -> str:
        """NAME without ORG."""
        return self.repository.rpartition("/")[2]


def hub_name(text: str) -> HubName | None:
    """The parts of a hub name, or None where `text` is none (a path, a word)."""
    match = _NAME.fullmatch(text) if len(text) <= 400 and text.isprintable() else None
    if match is None:
        return None
    repository = match["repository"]
    if "--" in repository or ".." in repository or len(repository) > 96:
        return None  # the hub allows no such names
    revision, selection = match["revision"] or DEFAULT_REVISION, match["selection"]
    if not is_safe_path(revision) or (selection is not None and not is_safe_path(selection)):
        return None
    return HubName(repository, revision, selection)


def require_hub_name(text: str) -> HubName:
    """`hub_name`, or a UsageError that says what a name looks like."""
    name = hub_name(text)
    if name is None:
        raise UsageError(
            f"{text[:100]!r} is no name of a model: a hub's look like ORG/NAME, ORG/NAME@REVISION, "
            "ORG/NAME:Q4_K_M or ORG/NAME:FILE.gguf"
        )
    return name


def is_safe_path(path: str) -> bool:
    """Whether `path` is relative, plain, and stays inside its folder on every system."""
    parts = path.split("/")
    return (
        is_plain(path, 255)
        and not any(mark in path for mark in '\\:*?"<>|')
        and all(part and part.strip(". ") and not part.endswith((".", " ")) for part in parts)
    )
