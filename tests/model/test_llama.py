"""The reference model by itself: attention against its formula, caches against the full pass."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from alpage.core.config import RopeScaling
from alpage.core.errors import CapacityError, InputError
from alpage.model.llama import KVCache, Llama, RMSNorm, attend, rotary, rotate

MakeModel = Callable[..., Llama]


def tokens_for(model: Llama, batch: int, length: int) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (batch, length))


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 6), (6, 2), (8, 1)])
@pytest.mark.parametrize(("new", "seen"), [(1, 1), (1, 9), (5, 5), (4, 9)])
def test_attention_is_its_formula(heads: int, kv_heads: int, new: int, seen: int) -> None:
    torch.manual_seed(heads * 100 + seen)
    q = torch.randn(2, heads, new, 8) * 2
    k, v = torch.randn(2, 2, kv_heads, seen, 8) * 2
    result = attend(q, k, v)
    for batch in range(2):
        for head in range(heads):
            kv = head // (heads // kv_heads)
            for row in range(new):
                visible = seen - new + row + 1
                scores = k[batch, kv, :visible].double() @ q[batch, head, row].double()
                weights = torch.softmax(scores / math.sqrt(8), dim=0)
                expected = weights @ v[batch, kv, :visible].double()
                torch.testing.assert_close(
                    result[batch, head, row].double(), expected, atol=1e-5, rtol=0
                )


def test_rotation_turns_each_pair_by_position_times_frequency(make_model: MakeModel) -> None:
    config = make_model().config
    x = torch.randn(1, 1, 3, 8)
    cos, sin = rotary(config, torch.tensor([[[0, 1, 70]]]))
    turned = rotate(x, cos, sin)
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])
    for row, position in ((1, 1), (2, 70)):
        for pair, frequency in enumerate(config.inverse_frequencies()):
            angle = position * frequency
            a, b = x[0, 0, row, pair].item(), x[0, 0, row, pair + 4].item()
            expected = (
                a * math.cos(angle) - b * math.sin(angle),
                b * math.cos(angle) + a * math.sin(angle),
            )
            assert turned[0, 0, row, pair].item() == pytest.approx(expected[0], abs=1e-5)
            assert turned[0, 0, row, pair + 4].item() == pytest.approx(expected[1], abs=1e-5)


def test_norm_is_computed_in_float32_at_any_dtype() -> None:
    norm = RMSNorm(64, 1e-5).to(torch.bfloat16)
    torch.manual_seed(0)
    x = (torch.randn(50, 64) * 3).to(torch.bfloat16)
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.equal(norm(x), expected.to(torch.bfloat16))  # rounded once, at the end


def test_bfloat16_model_keeps_its_angles(make_model: MakeModel) -> None:
    model = make_model(context_length=20_000)
    exact = model(tokens := tokens_for(model, 1, 40))
    rounded = model.to(torch.bfloat16)(tokens)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.15
    cos, _ = rotary(model.config, torch.tensor([15_001]))
    assert cos[0, 0].item() == pytest.approx(math.cos(15_001), abs=1e-6)


@pytest.mark.parametrize("chunks", [[12], [1] * 12, [5, 1, 1, 4, 1], [1, 11]])
@pytest.mark.parametrize("scaling", [None, RopeScaling("linear", 3.0)])
def test_cached_passes_equal_the_full_pass(
    make_model: MakeModel, chunks: list[int], scaling: RopeScaling | None
) -> None:
    model = make_model(rope_scaling=scaling)
    tokens = tokens_for(model, 3, 12)
    cache = KVCache(model.config, batch=3, max_length=12)
    pieces = [model(part, cache) for part in torch.split(tokens, chunks, dim=1)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), atol=1e-5, rtol=0)


def test_rows_of_a_batch_do_not_see_one_another(make_model: MakeModel) -> None:
    model = make_model()
    tokens = tokens_for(model, 3, 9)
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(model(tokens), alone, atol=1e-5, rtol=0)


def test_later_tokens_change_nothing_before_them(make_model: MakeModel) -> None:
    model = make_model()
    tokens = tokens_for(model, 1, 10)
    changed = tokens.clone()
    changed[0, 6] = (tokens[0, 6] + 1) % 97
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=0)
    assert ((before - after)[:, 6:].abs().amax(-1) > 1e-3).all()


def test_cache_can_go_back(make_model: MakeModel) -> None:
    model = make_model()
    tokens = tokens_for(model, 1, 8)
    cache = KVCache(model.config, batch=1, max_length=8)
    model(tokens_for(model, 1, 8), cache)
    cache.length = 0
    first = model(tokens[:, :5], cache)
    model(tokens_for(model, 1, 3), cache)  # a guess that is rejected
    cache.length = 5
    second = model(tokens[:, 5:], cache)
    both = torch.cat((first, second), dim=1)
    torch.testing.assert_close(both, model(tokens), atol=1e-5, rtol=0)


def test_full_cache_says_so_and_stays_usable(make_model: MakeModel) -> None:
    model = make_model()
    tokens = tokens_for(model, 1, 6)
    cache = KVCache(model.config, batch=1, max_length=6)
    model(tokens[:, :4], cache)
    with pytest.raises(CapacityError, match=r"made for 6 tokens; this pass needs 7"):
        model(tokens_for(model, 1, 3), cache)
    last = model(tokens[:, 4:], cache)
    torch.testing.assert_close(last, model(tokens)[:, 4:], atol=1e-5, rtol=0)


def test_half_precision_cache_is_close(make_model: MakeModel) -> None:
    model = make_model()
    tokens = tokens_for(model, 1, 20)
    cache = KVCache(model.config, batch=1, max_length=20, dtype=torch.bfloat16)
    difference = (model(tokens, cache) - model(tokens)).abs().max()
    assert 0 < difference < 0.05


def test_hidden_and_head_make_the_logits(make_model: MakeModel) -> None:
    for tied in (False, True):
        model = make_model(tied=tied)
        tokens = tokens_for(model, 2, 5)
        hidden = model.hidden(tokens)
        assert hidden.shape == (2, 5, 48)
        torch.testing.assert_close(model.logits(hidden), model(tokens))
        assert ("output.weight" in model.state_dict()) is not tied


@pytest.mark.parametrize("shape", [(5,), (1, 0), (0, 4), (1, 2, 3)])
def test_tokens_of_a_wrong_shape_are_refused(make_model: MakeModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"non-empty \[batch, length\]"):
        make_model()(torch.zeros(shape, dtype=torch.int64))


def test_every_parameter_gets_a_gradient(make_model: MakeModel) -> None:
    model = make_model().requires_grad_(True)
    tokens = tokens_for(model, 2, 8)
    logits = model(tokens[:, :-1]).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    torch.autograd.backward(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_frequencies_from_a_table_equal_those_from_the_formula(make_model: MakeModel) -> None:
    scaled = make_model(head_dim=64, context_length=131_072, rope_scaling=RopeScaling("llama3", 8))
    plain = replace(scaled.config, rope_scaling=None)
    pairs = zip(plain.inverse_frequencies(), scaled.config.inverse_frequencies(), strict=True)
    factors = tuple(a / b for a, b in pairs)
    assert factors[0] == 1 and factors[-1] == pytest.approx(8)
    table = make_model(head_dim=64, context_length=131_072, rope_factors=factors)
    tokens = tokens_for(scaled, 1, 50)
    torch.testing.assert_close(table(tokens), scaled(tokens), atol=1e-5, rtol=0)
