"""Greedy tokens from a model file: by Alpage and by other people's engines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.parity.models import logits_of

from alpage.engine.native import NativeRunner
from alpage.weights.source import open_model


def ours(path: Path, prompt: Sequence[int], count: int = 8) -> list[int]:
    """Alpage's native engine."""
    with open_model(path) as source:
        runner = NativeRunner(source, threads=2, context_tokens=512)
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(logits_of(runner, tokens)[-1].argmax()))
        return tokens[len(prompt) :]


def logits(path: Path, prompt: Sequence[int]) -> NDArray[np.float32]:
    """The reference model's logits after each token of `prompt`: [tokens, vocab_size]."""
    import torch

    from alpage.model.load import load

    with open_model(path) as source, torch.no_grad():
        found: NDArray[np.float32] = load(source)(torch.tensor([prompt]))[0].numpy()
        return found


def llamacpp(path: Path, prompt: Sequence[int], count: int = 8) -> list[int]:
    """llama.cpp, through llama-cpp-python."""
    llama_cpp: Any = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=2, verbose=False, logits_all=True, seed=1
    )
    try:
        tokens = list(prompt)
        model.eval(tokens)
        for _ in range(count):
            best = int(np.argmax(model.scores[model.n_tokens - 1]))
            tokens.append(best)
            model.eval([best])
        return tokens[len(prompt) :]
    finally:
        model.close()


def transformers(path: Path, prompt: Sequence[int], count: int = 8) -> list[int]:
    """transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.train(False)
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def transformers_logits(path: Path, prompt: Sequence[int]) -> NDArray[np.float32]:
    """transformers' logits after each token, in float32: [tokens, vocab_size]."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.train(False)
    with torch.no_grad():
        found: NDArray[np.float32] = model(torch.tensor([prompt])).logits[0].numpy()
        return found


def reference(path: Path, prompt: Sequence[int], count: int = 8) -> list[int]:
    """The reference model, in float32."""
    import torch

    from alpage.model.load import load

    with open_model(path) as source, torch.no_grad():
        model = load(source)
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        return tokens[len(prompt) :]
