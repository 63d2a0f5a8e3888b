"""Text to token ids and back: byte-level BPE, special tokens, streaming decoding."""

from alpage.tokenizer.gguf import from_gguf
from alpage.tokenizer.stream import StreamDecoder
from alpage.tokenizer.tokenizer import Tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "from_gguf"]
