"""The facade: a model loaded from a name or path, talked to in text."""

from alpage.llama.calls import Calls, ToolChoice, ToolName
from alpage.llama.llama import Llama, ModelInfo
from alpage.llama.options import AnswerOptions, SamplingOptions
from alpage.llama.results import Completion, Piece, TextScore, TokenLogprob
from alpage.llama.stream import TextRequest, TextStream

__all__ = [
    "AnswerOptions",
    "Calls",
    "Completion",
    "Llama",
    "ModelInfo",
    "Piece",
    "SamplingOptions",
    "TextRequest",
    "TextScore",
    "TextStream",
    "TokenLogprob",
    "ToolChoice",
    "ToolName",
]
