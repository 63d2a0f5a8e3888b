"""Text to ids and back, special tokens, streaming detokenisation."""

from alpage.tokenizer.gguf import from_gguf
from alpage.tokenizer.hf import from_tokenizer_json
from alpage.tokenizer.stream import StreamDecoder
from alpage.tokenizer.tiktoken import from_tiktoken
from alpage.tokenizer.tokenizer import Tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "from_gguf", "from_tiktoken", "from_tokenizer_json"]
