"""Opening a model, whatever its format."""

from pathlib import Path

from alpage.core.errors import UnsupportedError, UserError
from alpage.weights.contents import Lineage, ModelSource
from alpage.weights.gguf_model import open_gguf

__all__ = ["Lineage", "ModelSource", "open_model"]

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def open_model(path: Path) -> ModelSource:
    """Open a GGUF file or a folder in Hugging Face's layout.

    Raises `NotFoundError`, `StorageError` (not readable), `FormatError` (damaged, truncated, no
    model) or `UnsupportedError` (a valid model that Alpage does not run).
    """
    if path.suffix in _PICKLES:
        raise UnsupportedError(
            f"{path} is a Python checkpoint, which can run code when it is opened; "
            "use a GGUF file or a folder with safetensors"
        )
    try:
        return open_gguf(path)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
