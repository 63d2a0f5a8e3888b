"""The reference Llama in PyTorch, from token ids to logits: THE SPECIFICATION of every faster path.

Single-device and complete in this file. Parallelism, LoRA, quantisation and paging are applied to
it from outside, never written into it: linear layers can be swapped by name, and attention looks
back through a `Cache`, so another way of storing keys and values is another `Cache`.

Architecture: "The Llama 3 Herd of Models" (arXiv 2407.21783), section 3.2. Parameter names are
those of Meta's checkpoints; the rotary layout is rotate-half (pair i is x[i] and
x[i + head_dim / 2]), so Meta's own interleaved q and k rows are permuted by the readers.

Letters in shapes: B sequences, L new tokens of each, T tokens seen so far (T >= L), V vocab_size,
D dim, F ffn_dim, H n_heads, K n_kv_heads, E head_dim.
"""

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from alpage.core.config import LlamaConfig
from alpage.core.errors import CapacityError, InputError


class Cache(Protocol):
    """What the tokens of one forward pass can look back on, and where they stand."""

    def positions(self, length: int) -> Tensor:
        """Rotary positions of the `length` new tokens: [L] or [B, L], int64."""
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep k and v [B, K, L, E] of `layer`; the attention output [B, H, L, E] for q.

        Called once for every layer of a pass, in ascending order.
        """
        ...


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal grouped-query attention: softmax(q k^T / sqrt(E) + mask) v.

    q [B, H, L, E] are the last L of the T tokens whose keys and values k and v [B, K, T, E] are.
    Query head h reads key/value head h // (H / K). Returns [B, H, L, E].
    """
    new, seen = q.shape[2], k.shape[2]
    mask = None
    if 1 < new < seen:  # a row sees everything up to itself: lower right corner, not lower left
        mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)  # [L, T]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=1 < new == seen, enable_gqa=q.shape[1] != k.shape[1]
    )


class KVCache:
    """Keys and values of B sequences of equal length, preallocated; the plainest `Cache`.

    `length` tokens are held; to go back (a rejected guess, another answer to the same prompt) set
    `length` lower. A pass that fails leaves `length` where it was. For inference only: writes are
    in place.
    """

    def __init__(
        self,
        config: LlamaConfig,
        batch: int,
        max_length: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, max_length, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)  # [layers, B, K, max_length, E]
        self.values = torch.empty_like(self.keys)  # [layers, B, K, max_length, E]
        self.length = 0

    def positions(self, length: int) -> Tensor:
        """Return the next `length` positions [L]; `CapacityError` when they do not fit."""
        end = self.length + length
        if end > self.keys.shape[3]:
            raise CapacityError(
                f"the cache was made for {self.keys.shape[3]} tokens; this pass needs {end}"
            )
        return torch.arange(self.length, end, device=self.keys.device)  # [L]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v [B, K, L, E] behind the earlier ones and attend: [B, H, L, E]."""
        start, end = self.length, self.length + k.shape[2]
        self.keys[layer, :, :, start:end] = k
        self.values[layer, :, :, start:end] = v
        if layer == self.keys.shape[0] - 1:  # the last layer ends the pass
            self.length = end
        keys = self.keys[layer, :, :, :end].to(q.dtype)  # [B, K, T, E]
        values = self.values[layer, :, :, :end].to(q.dtype)  # [B, K, T, E]
        return attend(q, keys, values)


def rotary(config: LlamaConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles of positions [...]: two of [..., E / 2], float32.

    Angles are float32 products, as in the code that models are trained with. Made anew for every
    pass and not kept as a buffer, which `model.to(torch.bfloat16)` would round.
    """
    frequencies = torch.tensor(
        config.inverse_frequencies(), dtype=torch.float32, device=positions.device
    )  # [E / 2]
    angles = positions.float()[..., None] * frequencies  # [..., E / 2]
    return angles.cos(), angles.sin()  # [..., E / 2] each


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of x [B, heads, L, E] by its angle; cos and sin [B or 1, 1, L, E / 2]."""
    first, second = x.float().chunk(2, dim=-1)  # [B, heads, L, E / 2] each
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)  # [B, heads, L, E]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, the mean and the division in float32 at any dtype."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        wide = x.float()  # [..., D]
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)  # [..., 1]
        return (wide * scale).to(x.dtype) * self.weight  # [..., D]


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions; no biases."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        """Map x [B, L, D], with cos and sin [B or 1, 1, L, E / 2], to [B, L, D]."""
        q = self.split_heads(self.wq(x))  # [B, H, L, E]
        k = self.split_heads(self.wk(x))  # [B, K, L, E]
        v = self.split_heads(self.wv(x))  # [B, K, L, E]
        q = rotate(q, cos, sin)  # [B, H, L, E]
        k = rotate(k, cos, sin)  # [B, K, L, E]
        mixed = attend(q, k, v) if cache is None else cache.attend(self.layer, q, k, v)
        joined = mixed.transpose(1, 2).flatten(2)  # [B, L, H * E]
        out: Tensor = self.wo(joined)  # [B, L, D]
        return out

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, L, heads * E] -> [B, heads, L, E]."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x); w1 is the gate, w3 goes up, w2 comes down."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        gated = F.silu(self.w1(x)) * self.w3(x)  # [B, L, F]
        out: Tensor = self.w2(gated)  # [B, L, D]
        return out


class Block(nn.Module):
    """One layer: attention and feed-forward, each on a normalised copy of the residual stream."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x = x + self.attention(self.attention_norm(x), cos, sin, cache)  # [B, L, D]
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))  # [B, L, D]
        return out


class Llama(nn.Module):
    """A Llama of any size from one frozen config.

    Weights are PyTorch's default random ones until a checkpoint is loaded. A tied model has no
    `output` layer: its head is the embedding table.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = None if config.tied else nn.Linear(config.dim, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits of the token after each of `tokens` [B, L]: [B, L, V], float32.

        Without a cache the tokens stand at positions 0 to L - 1 and see one another only; with one
        they also see what it holds, and it keeps them.
        """
        return self.logits(self.hidden(tokens, cache))  # [B, L, V]

    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """States after the final norm, for tokens [B, L] as in `forward`: [B, L, D]."""
        if tokens.dim() != 2 or not tokens.numel():
            raise InputError(
                f"tokens must be a non-empty [batch, length] tensor, not {list(tokens.shape)}"
            )
        length = tokens.shape[1]
        if cache is None:
            positions = torch.arange(length, device=tokens.device)  # [L]
        else:
            positions = cache.positions(length).to(tokens.device)  # [L] or [B, L]
        positions = positions.view(-1, 1, length)  # [B or 1, 1, L]
        cos, sin = rotary(self.config, positions)  # [B or 1, 1, L, E / 2]
        x: Tensor = self.tok_embeddings(tokens)  # [B, L, D]
        for layer in self.layers:
            x = layer(x, cos, sin, cache)  # [B, L, D]
        out: Tensor = self.norm(x)  # [B, L, D]
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the output head to states [..., D] of `hidden`: [..., V], float32."""
        if self.output is None:
            return F.linear(hidden, self.tok_embeddings.weight).float()  # [..., V]
        scores: Tensor = self.output(hidden)  # [..., V]
        return scores.float()
