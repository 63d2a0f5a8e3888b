"""Text to ids and back, special tokens, streaming detokenisation."""

from typing import TYPE_CHECKING

from alpage.core.later import later
from alpage.tokenizer.gguf import from_gguf
from alpage.tokenizer.stream import StreamDecoder
from alpage.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from alpage.tokenizer.hf import from_tokenizer_json
    from alpage.tokenizer.sentencepiece import from_sentencepiece, is_sentencepiece
    from alpage.tokenizer.tiktoken import from_tiktoken
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

__getattr__ = later(
    __name__,
    {
        "from_sentencepiece": "sentencepiece",
        "from_tiktoken": "tiktoken",
        "from_tokenizer_json": "hf",
        "gguf_difference": "write_gguf",
        "is_sentencepiece": "sentencepiece",
        "to_gguf_metadata": "write_gguf",
        "to_sentencepiece": "write_sentencepiece",
        "to_tiktoken": "write_tiktoken",
        "to_tokenizer_config": "write_json",
        "to_tokenizer_json": "write_json",
    },
)
