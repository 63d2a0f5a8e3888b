"""POST /v1/embeddings: the request, and vectors to OpenAI's JSON."""

import base64
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alpage.server.errors import RequestError
from alpage.server.events import compact
from alpage.server.openai.fields import Body, Prompts, Refused, each_prompt
from alpage.server.queries import EmbedQuery


class EmbeddingsRequest(Body):
    """The whole body. Vectors are means of the model's final states, of length 1."""

    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None  # says who asks, not what is answered
    # Not supported: a part of such a vector says little.
    dimensions: Refused = None

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        if not self.input:
            raise RequestError("the input is empty; give at least one token", param="input")

    def query(self) -> EmbedQuery:
        """What is asked of the model."""
        return EmbedQuery(inputs=each_prompt(self.input))


def answer(asked: EmbeddingsRequest, vectors: NDArray[np.float32], tokens: int) -> bytes:
    """The whole answer for vectors [texts, dim]; many numbers take a while to write."""
    shown = _base64 if asked.encoding_format == "base64" else _numbers
    data = [
        {"object": "embedding", "index": index, "embedding": shown(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    value: dict[str, Any] = {"object": "list", "data": data, "model": asked.model, "usage": usage}
    return compact(value).encode()


def _base64(vector: NDArray[np.float32]) -> str:
    """The numbers as little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _numbers(vector: NDArray[np.float32]) -> list[float]:
    return [float(number) for number in vector]
