"""Alpage, the open Llama system: get, run, serve and measure Llama-family models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alpage.llama import Llama

__version__ = "0.1.0"
__all__ = ["Llama", "__version__"]


def __getattr__(name: str) -> Any:
    # `import alpage` stays light: numpy and the native core load with the first use of Llama.
    if name == "Llama":
        from alpage.llama import Llama

        return Llama
    raise AttributeError(f"module 'alpage' has no attribute {name!r}")
