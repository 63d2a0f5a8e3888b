"""Documents in the order of what they have to do with a query, as this process computes it."""

import math
from typing import Any

import httpx
import pytest
from tests.server.serving import serving
from tests.server.text.test_ids import asked, refused

from alpage import Llama
from alpage.server.app import Surroundings
from alpage.server.pool import Pool

QUERY = "What is the capital of France?"
DOCUMENTS: list[Any] = [
    "Mix flour, water, yeast and salt, and bake the dough in a hot oven.",
    {"text": "Paris is the capital and largest city of France, on the river Seine."},
    "Molten rock flows out of a mountain as lava.",
]
TEXTS = [d if isinstance(d, str) else d["text"] for d in DOCUMENTS]

ANSWERED = {
    "What is the capital of France?":
        "Paris is the capital and largest city of France, on the river Seine.",
    "How do I bake bread?":
        "Mix flour, water, yeast and salt, knead the dough, let it rise and bake it in a hot oven.",
    "When did the second world war end?":
        "The fighting in Europe stopped in May 1945, and Japan surrendered in September.",
    "What do bees make?": "Honey is produced by insects that collect nectar from flowers.",
    "How fast is light?": "In vacuum it travels at about 300,000 kilometres a second.",
    "Who wrote Hamlet?":
        "William Shakespeare's plays include tragedies such as Macbeth.",
}  # fmt: skip


def by_logprob(llm: Llama, document: str) -> float:
    """Mean log-probability of the query's tokens after a document and the end of a line."""
    query = llm.tokenizer.encode_inside(QUERY)
    ids = [*llm.prompt_ids(document), *llm.tokenizer.encode_inside("\n"), *query]
    request = llm.completion_request(ids, prompt_logprobs=True, answer=False, top_logprobs=0)
    scored = llm.stream(request).result().prompt_logprobs
    assert scored is not None
    return math.fsum(token.logprob or 0 for token in scored[-len(query) :]) / len(query)


def test_by_the_likelihood_of_the_query(url: str, llm: Llama) -> None:
    told = asked(url, "rerank", query=QUERY, documents=DOCUMENTS)
    wanted = [by_logprob(llm, text) for text in TEXTS]
    scores = {result["index"]: result["relevance_score"] for result in told["results"]}
    assert scores == dict(enumerate(wanted))
    ranked = [result["index"] for result in told["results"]]
    assert ranked == sorted(range(3), key=lambda index: -wanted[index])
    assert ranked[0] == 1
    used = sum(len(llm.prompt_ids(text)) for text in TEXTS)
    used += 3 * (1 + len(llm.tokenizer.encode_inside(QUERY)))
    assert told["usage"] == {"prompt_tokens": used, "total_tokens": used}
    assert told == asked(url, "rerank", query=QUERY, documents=DOCUMENTS, method="logprob")


def test_by_embedding(url: str, llm: Llama) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "method": "embedding"}
    told = asked(url, "rerank", return_documents=True, **body)
    query, *vectors = llm.embed([QUERY, *TEXTS]).astype("float64")
    wanted = [float(vector @ query) for vector in vectors]
    for result in told["results"]:
        assert result["relevance_score"] == wanted[result["index"]]
        assert result["document"] == {"text": TEXTS[result["index"]]}
    scores = [result["relevance_score"] for result in told["results"]]
    assert scores == sorted(scores, reverse=True)
    assert told["usage"]["total_tokens"] == sum(map(len, map(llm.prompt_ids, [QUERY, *TEXTS])))
    first = asked(url, "rerank", top_n=1, **body)["results"]
    assert first == [{key: told["results"][0][key] for key in ("index", "relevance_score")}]


def test_which_method_finds_answers(url: str) -> None:
    """What docs/text-routes.md says of both: a model that was not trained to embed."""
    found = dict.fromkeys(("logprob", "embedding"), 0)
    for method in found:
        for number, query in enumerate(ANSWERED):
            body = {"query": query, "documents": [*ANSWERED.values()], "method": method}
            (best,) = asked(url, "rerank", top_n=1, **body)["results"]
            found[method] += best["index"] == number
    assert found["embedding"] < found["logprob"] == len(ANSWERED)


@pytest.mark.parametrize("method", ["embedding", "logprob"])
def test_equal_documents_keep_their_order(url: str, method: str) -> None:
    documents = ["a b c", "x", "a b c", "a b c"]
    told = asked(url, "rerank", query="What?", documents=documents, method=method, top_n=10)
    order = [result["index"] for result in told["results"] if result["index"] != 1]
    assert order == [0, 2, 3]
    assert len(told["results"]) == 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": "", "documents": ["a"]}, "query is "),
        ({"query": "a", "documents": []}, "documents is []: "),
        ({"query": "a", "documents": ["b", ""]}, "documents[1] is "),
        ({"query": "a", "documents": [{"txt": "b"}]}, "documents[0]."),
        ({"query": "a", "documents": ["b"] * 1001}, "documents is "),
        ({"query": "a", "documents": ["b"], "top_n": 0}, "top_n is 0"),
        ({"query": "a", "documents": ["b"], "method": "magic"}, 'method is "magic": supported is'),
        ({"query": "a", "documents": ["b", "word " * 600]}, "the prompt is too long: 60"),
        (
            {"query": "a", "documents": ["b" * 4000], "method": "embedding"},
            "the prompt is too long: ",
        ),
    ],
)
def test_refusals(url: str, body: dict[str, Any], message: str) -> None:
    assert refused(url, "rerank", **body)["message"].startswith(message)


def test_the_schema_describes_the_routes(url: str) -> None:
    schema = httpx.get(f"{url}/openapi.json").json()
    for path, body in (
        ("/v1/tokenize", "TokenizeRequest"),
        ("/v1/rerank", "RerankRequest"),
        ("/api/chat", "OllamaChat"),
        ("/api/pull", "OllamaPull"),
    ):
        content = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"] == {"$ref": f"#/components/schemas/{body}"}
        assert body in schema["components"]["schemas"]


def test_a_time_that_is_over_is_told(llm: Llama) -> None:
    """Some of the documents are read by then: an order of those would not be the right one."""
    around = Surroundings(pool=Pool.of({"smollm2": llm}), local=True, timeout=0.05)
    with serving(around) as running:
        documents = [f"{number} " + "word " * 400 for number in range(20)]
        error = refused(running.url, "rerank", 503, query=QUERY, documents=documents)
        assert error["code"] == "timeout"
        assert error["message"].startswith("the time for an answer was over when ")
