"""The reference model against `transformers`: logits within 1e-4 in float32."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alpage.core.config import LlamaConfig, RopeScaling
from alpage.model.llama import KVCache, Llama
from alpage.model.load import load
from alpage.weights.source import ModelSource, open_model

transformers = pytest.importorskip("transformers")

MakeModel = Callable[..., Llama]
LLAMA_3_1 = RopeScaling("llama3", factor=8.0)

THEIR_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "norm": "model.norm",
    "output": "lm_head",
}


def their_config(config: LlamaConfig) -> Any:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        rope |= {"rope_type": config.rope_scaling.kind, "factor": config.rope_scaling.factor}
        if config.rope_scaling.kind == "llama3":
            rope["low_freq_factor"] = config.rope_scaling.low_freq_factor
            rope["high_freq_factor"] = config.rope_scaling.high_freq_factor
            rope["original_max_position_embeddings"] = config.rope_scaling.original_context
    return transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        intermediate_size=config.ffn_dim,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps,
        max_position_embeddings=config.context_length,
        rope_parameters=rope,
        tie_word_embeddings=config.tied,
    )


def their_model(model: Llama) -> Any:
    """The same weights in `transformers.LlamaForCausalLM`; not one may be missing or left over."""
    with torch.device("meta"):
        theirs = transformers.LlamaForCausalLM(their_config(model.config))
    theirs.to_empty(device="cpu")
    weights = {}
    for name, weight in model.state_dict().items():
        base = name.removesuffix(".weight")
        layer = ""
        if base.startswith("layers."):
            _, number, base = base.split(".", 2)
            layer = f"model.layers.{number}."
        weights[f"{layer}{THEIR_NAMES[base]}.weight"] = weight
    if model.config.tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    theirs.load_state_dict(weights, strict=True)
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
    theirs.model.rotary_emb = rotary(theirs.config)  # buffers that `to_empty` left undefined
    theirs.tie_weights()
    return theirs.eval()


def assert_same_logits(model: Llama, tokens: torch.Tensor) -> torch.Tensor:
    """Ours, after the comparison: [B, L, V]."""
    with torch.inference_mode():
        ours: torch.Tensor = model(tokens)
        theirs: torch.Tensor = their_model(model)(tokens).logits
    assert ours.std() > 0.5  # logits that matter, not zeros that agree
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    return ours


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(6, 6, 8), (6, 2, 8), (8, 1, 16), (16, 2, 4), (4, 4, 32), (3, 1, 64)],
)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("ffn_dim", [173, 64, 1])
def test_head_layouts_tying_and_feed_forward_sizes(
    make_model: MakeModel, heads: int, kv_heads: int, head_dim: int, tied: bool, ffn_dim: int
) -> None:
    model = make_model(
        seed=heads, n_heads=heads, n_kv_heads=kv_heads, head_dim=head_dim, tied=tied,
        ffn_dim=ffn_dim,
    )  # fmt: skip
    assert_same_logits(model, torch.randint(97, (2, 33)))


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 10_000.0},
        {"rope_theta": 100_000.0, "norm_eps": 1e-6},
        {"rope_scaling": RopeScaling("linear", 4.0)},
        {"rope_scaling": LLAMA_3_1},
        {"rope_scaling": RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)},
        {"rope_scaling": RopeScaling("llama3", 4.0, 2.0, 8.0, 64)},
        {"n_layers": 5, "norm_eps": 0.1},
    ],
)
def test_rotary_and_norm_options(make_model: MakeModel, changes: dict[str, Any]) -> None:
    model = make_model(head_dim=16, context_length=512, **changes)
    assert_same_logits(model, torch.randint(97, (1, 300)))


@pytest.mark.parametrize("kind", ["llama3", "linear", None])
def test_positions_past_8192(make_model: MakeModel, kind: str | None) -> None:
    scaling = RopeScaling(kind, 8.0) if kind else None
    model = make_model(
        n_heads=3, n_kv_heads=1, head_dim=64, context_length=131_072, rope_scaling=scaling
    )
    tokens = torch.randint(97, (1, 8_320))
    ours = assert_same_logits(model, tokens)
    if scaling is not None:  # the test would notice a model that forgot its scaling
        plain = make_model(n_heads=3, n_kv_heads=1, head_dim=64, context_length=131_072)
        assert (plain(tokens) - ours)[:, 8_192:].abs().max() > 0.05


def test_decoding_at_position_100_000(make_model: MakeModel) -> None:
    """Far positions with a short past: the cache begins at 100,000 on both sides."""
    model = make_model(head_dim=64, context_length=131_072, rope_scaling=LLAMA_3_1)
    theirs = their_model(model)

    class Far(KVCache):
        def positions(self, length: int) -> torch.Tensor:
            return super().positions(length) + 100_000

    cache = Far(model.config, batch=2, max_length=40)
    tokens = torch.randint(97, (2, 40))
    ids = torch.arange(100_000, 100_040).expand(2, -1)
    with torch.inference_mode():
        ours = torch.cat([model(part, cache) for part in torch.split(tokens, [30, 1, 1, 8], 1)], 1)
        expected = theirs(tokens, position_ids=ids).logits
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("head_dim", [16, 64, 80, 128])
@pytest.mark.parametrize("theta", [10_000.0, 100_000.0, 500_000.0])
@pytest.mark.parametrize("kind", ["llama3", "linear", None])
def test_frequencies_are_those_of_transformers(
    make_model: MakeModel, head_dim: int, theta: float, kind: str | None
) -> None:
    scaling = RopeScaling(kind, 8.0) if kind else None
    config = make_model(head_dim=head_dim, rope_theta=theta, rope_scaling=scaling).config
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(their_config(config))
    ours = torch.tensor(config.inverse_frequencies(), dtype=torch.float32)
    # At most the last bit, where this machine's vector pow is not correctly rounded.
    torch.testing.assert_close(ours, rotary.inv_freq, rtol=1.3e-7, atol=0)


@pytest.fixture(scope="module")
def source(smollm2_path: Path) -> Iterator[ModelSource]:
    with open_model(smollm2_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def smollm2(source: ModelSource) -> Llama:
    return load(source)


def word_ids(source: ModelSource, text: str) -> list[int]:
    """Ids of words that are single tokens of SmolLM2's byte-level vocabulary."""
    assert source.gguf_metadata is not None
    vocabulary = {text: i for i, text in enumerate(source.gguf_metadata["tokenizer.ggml.tokens"])}
    return [vocabulary[word] for word in ("Ġ" + text.replace(" ", " Ġ")).split()]


TEXT = (
    "In the summer the farmers of the valley take their animals up to the high grass and stay "
    "there for three months . Everyone helps with the work , and the milk of all the animals is "
    "made into one cheese , which is then shared between the families in the autumn . The "
    "people who live in the mountains have done this for many hundred years , and they still do "
    "it today because it is good for the land , good for the animals and good for the people ."
)


def test_smollm2_on_text(smollm2: Llama, source: ModelSource) -> None:
    ids = word_ids(source, TEXT)
    assert len(ids) == 92
    assert_same_logits(smollm2, torch.tensor([ids]))


def test_smollm2_on_random_ids(smollm2: Llama) -> None:
    torch.manual_seed(0)
    assert_same_logits(smollm2, torch.randint(smollm2.config.vocab_size, (2, 256)))


def test_smollm2_knows_its_capitals(smollm2: Llama, source: ModelSource) -> None:
    """A permutation forgotten on both sides would pass parity; it would not find Paris."""
    tokens = torch.tensor([word_ids(source, "The capital of France is")])
    cache = KVCache(smollm2.config, batch=1, max_length=16)
    with torch.inference_mode():
        answer = smollm2(tokens, cache)[:, -1].argmax(-1)
    assert answer.tolist() == word_ids(source, "Paris")
