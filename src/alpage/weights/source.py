"""Opening a model, whatever its format."""

from pathlib import Path

from alpage.core.errors import FormatError, UnsupportedError, UserError
from alpage.core.paths import storage_errors
from alpage.weights.contents import PARAMS, Lineage, ModelSource
from alpage.weights.gguf_model import open_gguf
from alpage.weights.gguf_parts import part_set

__all__ = ["Lineage", "ModelSource", "open_model"]

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def open_model(path: Path) -> ModelSource:
    """Open a GGUF file, or a folder in Hugging Face's or Meta's layout.

    Raises `NotFoundError`, `StorageError` (not readable), `FormatError` (damaged, truncated, no
    model) or `UnsupportedError` (a valid model that Alpage does not run).
    """
    with storage_errors(f"open {path}"):
        folder = path.is_dir()
        if not folder:
            _check_suffix(path)
        try:
            return _open_folder(path) if folder else open_gguf(path)
        except UserError as error:
            if str(path) in str(error):
                raise
            raise type(error)(f"{path}: {error}") from error


def _open_folder(path: Path) -> ModelSource:
    # The readers load here, because a GGUF file needs none of them.
    if (path / "config.json").exists():
        from alpage.weights.huggingface import open_folder

        return open_folder(path)
    if (path / PARAMS).exists():
        from alpage.weights.meta import open_meta

        return open_meta(path)
    return open_gguf(_only_gguf(path))


def _check_suffix(path: Path) -> None:
    if path.suffix in _PICKLES:
        raise UnsupportedError(
            f"{path} is a Python checkpoint; give the folder that holds it with its params.json "
            "(Meta's layout), a GGUF file, or a folder with safetensors"
        )
    if path.suffix == ".safetensors":
        raise FormatError(
            f"{path} is one file of a model; give the folder that holds it: {path.parent}"
        )


def _only_gguf(folder: Path) -> Path:
    """The one GGUF model in a folder that is not in Hugging Face's layout: its first file."""
    models: dict[str, Path] = {}
    for file in sorted(folder.glob("*.gguf")):
        models.setdefault(part_set(file.name), file)
    found = list(models.values())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found[:10])
        raise FormatError(f"{folder} holds several models; name one of them: {names}")
    raise FormatError(
        f"{folder} holds no model: neither a config.json, a params.json nor a GGUF file"
    )
