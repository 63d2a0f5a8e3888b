"""POST /v1/rerank: documents in the order of what they have to do with a query."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from alpage.llama import TokenLogprob
from alpage.server.backends.local import LocalModel, require_local
from alpage.server.call import Call
from alpage.server.errors import RequestError
from alpage.server.openai.answers import finite
from alpage.server.queries import EmbedQuery, TextQuery
from alpage.server.text.requests import RerankRequest

_BETWEEN = "\n"
"""What stands between a document and the query that may follow from it."""


async def reranked(asked: RerankRequest, call: Call) -> dict[str, Any]:
    """The whole answer. Equal scores keep the order of the documents."""
    score = by_embedding if asked.method == "embedding" else by_logprob
    scores = await score(asked, call)
    texts = asked.texts
    order = sorted(range(len(texts)), key=lambda index: (-scores[index], index))[: asked.top_n]
    results: list[dict[str, Any]] = []
    for index in order:
        result: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
        if asked.return_documents:
            result["document"] = {"text": texts[index]}
        results.append(result)
    usage = {"prompt_tokens": call.prompt_tokens, "total_tokens": call.prompt_tokens}
    return {"object": "list", "model": asked.model, "results": results, "usage": usage}


async def by_embedding(asked: RerankRequest, call: Call) -> list[float]:
    """Cosines between the query's vector and each document's: -1 to 1."""
    vectors = await call.embed(asked.model, EmbedQuery(inputs=[asked.query, *asked.texts]))
    wide = vectors.astype("float64")
    return [float(vector @ wide[0]) for vector in wide[1:]]


async def by_logprob(asked: RerankRequest, call: Call) -> list[float]:
    """Mean log-probabilities of the query's tokens after each document: at most 0."""
    model = require_local(await call.lease(asked.model), 'the method "logprob"')
    prompts, count = await asyncio.to_thread(_prompts, asked, model)
    query = TextQuery(
        prompts=prompts, score_prompts=True, answer=False, options={"top_logprobs": 0}
    )
    job = await call.ask(asked.model, query)
    scores: dict[int, float] = {}
    async with job.run() as pieces:
        # Each is reduced as it comes: the tokens of all documents would take much memory.
        async for index, piece in pieces:
            if piece.prompt_logprobs is not None:
                scores[index] = _mean(piece.prompt_logprobs[-count:])
    if len(scores) < len(prompts):
        raise RequestError(
            f"the time for an answer was over when {len(scores)} of {len(prompts)} documents had "
            "been read; ask about fewer",
            status=503,
            code="timeout",
        )
    return [scores[index] for index in range(len(prompts))]


def _prompts(asked: RerankRequest, model: LocalModel) -> tuple[list[list[int]], int]:
    """Ids of each document with the query after it, and how many of them are the query's."""
    query = model.ids_inside(asked.query)
    after = [*model.ids_inside(_BETWEEN), *query]
    return [[*model.ids_of(text, begin=True), *after] for text in asked.texts], len(query)


def _mean(tokens: Sequence[TokenLogprob]) -> float:
    logprobs = [finite(token.logprob) for token in tokens if token.logprob is not None]
    return math.fsum(logprobs) / len(logprobs)
