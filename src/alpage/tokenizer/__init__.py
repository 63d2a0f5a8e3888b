"""Text to ids and back, special tokens, streaming detokenisation."""

from alpage.tokenizer.gguf import from_gguf
from alpage.tokenizer.hf import from_tokenizer_json
from alpage.tokenizer.sentencepiece import from_sentencepiece, is_sentencepiece
from alpage.tokenizer.stream import StreamDecoder
from alpage.tokenizer.tiktoken import from_tiktoken
from alpage.tokenizer.tokenizer import Tokenizer
from alpage.tokenizer.write_gguf import gguf_difference, to_gguf_metadata
from alpage.tokenizer.write_json import to_tokenizer_config, to_tokenizer_json
from alpage.tokenizer.write_sentencepiece import to_sentencepiece
from alpage.tokenizer.write_tiktoken import to_tiktoken

__all__ = [
    "StreamDecoder",
    "Tokenizer",
    "from_gguf",
    "from_sentencepiece",
    "from_tiktoken",
    "from_tokenizer_json",
    "gguf_difference",
    "is_sentencepiece",
    "to_gguf_metadata",
    "to_sentencepiece",
    "to_tiktoken",
    "to_tokenizer_config",
    "to_tokenizer_json",
]
