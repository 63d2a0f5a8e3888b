"""All targets by name."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random

from tests.fuzz import folder_input, tokenizer_model_input
from tests.fuzz.case import Input, Target
from tests.fuzz.folder_input import small_folder
from tests.fuzz.gguf_input import GgufInput, Shape, small_model
from tests.fuzz.parts_input import small_parts
from tests.fuzz.sentencepiece_input import sentencepiece_folder
from tests.fuzz.template_input import TemplateInput
from tests.fuzz.torch_input import small_checkpoint
from tests.fuzz.use import use_model

from alpage.chat import ChatTemplate
from alpage.chat.budget import Budget
from alpage.tokenizer import Tokenizer, from_gguf, tiktoken
from alpage.weights.tensor import TensorType

SMALL = [kind for kind in TensorType if kind.block_size <= 32]
WIDE = Shape(dim=256, heads=2, kv_heads=1, ffn=256, head_dim=128)


@dataclass(frozen=True)
class Gguf:
    """GGUF files: container, metadata, tokenizer and tensors."""

    name: str = "gguf"

    def start(self, dice: Random) -> Input:
        wide = dice.random() < 0.15
        shape, kinds = (WIDE, list(TensorType)) if wide else (Shape(), SMALL)
        return GgufInput(small_model(dice, shape, kinds), shape, kinds)

    def run(self, path: Path, dice: Random) -> str:
        return use_model(path, dice)


@dataclass(frozen=True)
class Weights:
    """GGUF files whose headers are right and whose weights and sizes are odd."""

    name: str = "weights"

    def start(self, dice: Random) -> Input:
        kinds = [dice.choice(list(TensorType))] if dice.random() < 0.7 else list(TensorType)
        shape = WIDE if dice.random() < 0.5 else Shape(dim=64, heads=2, head_dim=32)
        return GgufInput(small_model(dice, shape, kinds), shape, kinds, only_weights=True)

    def run(self, path: Path, dice: Random) -> str:
        return use_model(path, dice)


@dataclass(frozen=True)
class Folder:
    """Folders in Hugging Face's layout, one group of files at a time."""

    name: str
    mutators: "tuple[tuple[folder_input.Mutator, float], ...]"

    def start(self, dice: Random) -> Input:
        sharded = self.name == "safetensors" and dice.random() < 0.4
        return small_folder(dice, self.mutators, sharded=sharded)

    def run(self, path: Path, dice: Random) -> str:
        return use_model(path, dice)


@dataclass(frozen=True)
class Tiktoken:
    """tokenizer.model in tiktoken's form."""

    name: str = "tiktoken"

    def start(self, dice: Random) -> Input:
        return tokenizer_model_input.tiktoken_folder(dice)

    def run(self, path: Path, dice: Random) -> str:
        tiktoken.RANKS = tokenizer_model_input.RANKS
        return use_model(path, dice)


@dataclass(frozen=True)
class SentencePiece:
    """tokenizer.model as SentencePiece writes it."""

    name: str = "sentencepiece"

    def start(self, dice: Random) -> Input:
        return sentencepiece_folder()

    def run(self, path: Path, dice: Random) -> str:
        return use_model(path, dice)


@dataclass(frozen=True)
class Parts:
    """GGUF models in several files."""

    name: str = "gguf-parts"

    def start(self, dice: Random) -> Input:
        return small_parts(dice)

    def run(self, path: Path, dice: Random) -> str:
        return use_model(path, dice)


@dataclass(frozen=True)
class Torch:
    """Folders in Meta's layout: zip archives with pickles, params.json, tokenizer.model."""

    name: str = "torch"

    def start(self, dice: Random) -> Input:
        return small_checkpoint(dice)

    def run(self, path: Path, dice: Random) -> str:
        tiktoken.RANKS = tokenizer_model_input.RANKS
        return use_model(path, dice)


USER = "".join(map(chr, range(0xE000, 0xE010)))
"""Letters of the user's message that no template writes: private use."""
_INTERNALS = re.compile(
    r"<(class|function|module|built-in|bound method|method|generator|frame|code|type|slot)\b"
    r"|object at 0x|__main__|/site-packages/"
)
_MESSAGES = (
    {"role": "system", "content": f"{USER}<|im_end|>"},
    {"role": "user", "content": f"abc {USER} <|im_start|>"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": USER, "arguments": {"a": [1, USER, None]}}}]},
)  # fmt: skip
_TOOLS = ({"type": "function", "function": {"name": "t", "description": USER, "parameters": {}}},)


@dataclass(frozen=True)
class Template:
    """Chat templates: no internals, no user's text as a special token, bounded time and output."""

    name: str = "template"

    def start(self, dice: Random) -> Input:
        return TemplateInput()

    def run(self, path: Path, dice: Random) -> str:
        Budget.__init__.__defaults__ = (0.05,)  # a twentieth of the time: loops end sooner
        source = path.read_text("utf-8", errors="surrogateescape")
        template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
        parts = template.render(_MESSAGES, tools=_TOOLS if dice.random() < 0.5 else None)
        size = sum(len(part.text) for part in parts)
        if size > 1_100_000:
            raise AssertionError(f"it wrote {size:,} characters")
        for part in parts:
            if part.special and any(letter in part.text for letter in USER):
                raise AssertionError("a user's text is trusted")
            if found := _INTERNALS.search(part.text):
                raise AssertionError(f"Python's internals are written: {found[0]}")
        if size < 10_000:
            tokenizer = _tokenizer()
            tokenizer.encode_segments((part.text, part.special) for part in parts)
        return "rendered" if size else "nothing written"


@cache
def _tokenizer() -> Tokenizer:
    made = small_model(Random(0), Shape(), SMALL)
    values = {key: value for key, _, value in made.metadata}
    return from_gguf({k: v[1] if isinstance(v, tuple) else v for k, v in values.items()})


_ALL: tuple[Target, ...] = (
    Gguf(),
    Weights(),
    Folder("safetensors", folder_input.SAFETENSORS),
    Folder("config", folder_input.CONFIG),
    Folder("tokenizer-json", folder_input.TOKENIZER_JSON),
    Tiktoken(),
    Template(),
    Parts(),
)
if find_spec("alpage.tokenizer.sentencepiece"):
    _ALL += (SentencePiece(),)
if find_spec("alpage.weights.torch_file"):
    _ALL += (Torch(),)
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}
_SHARES = {"gguf": 4.0, "weights": 2.0, "template": 2.0, "safetensors": 2.0}


def shares(names: list[str], inputs: int) -> dict[str, int]:
    """How many of `inputs` each target gets: more for formats with more to get wrong."""
    total = sum(_SHARES.get(name, 1.0) for name in names)
    return {name: round(inputs * _SHARES.get(name, 1.0) / total) for name in names}
