"""A tiny real model that says what a test wants: a GGUF file for the real engine.

Its attention and feed-forward weights are zero and its embeddings one-hot, so each token alone
decides the next one: the output weights are a map from byte to byte.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tests.weights.gguf_files import ARRAY, BOOL, F32, I32, STRING, U32, GgufFile, Stored

from alpage.tokenizer.bytelevel import BYTE_TO_CHAR

SIZE = 288  # 256 bytes, special tokens and padding; also the width, so that one-hot rows fit
SPECIALS = ["<|im_start|>", "<|im_end|>", *(f"<|unused{n}|>" for n in range(30))]
END = 257


def speaker(
    says: bytes = b"Hi.",
    *,
    endless: bool = False,
    context: int = 1024,
    template: str | None = None,
    changes: Mapping[str, float] | None = None,
) -> GgufFile:
    """Answers every prompt with the distinct bytes of `says`, once or without end.

    `changes` puts one value into the weights of a name.
    """
    assert len(set(says)) == len(says), "a byte decides its successor"
    following = dict.fromkeys(range(SIZE), says[0])
    following |= dict(itertools.pairwise(says))
    following[says[-1]] = says[0] if endless else END
    output = np.zeros((SIZE, SIZE), np.float32)
    for token, successor in following.items():
        output[successor, token] = 10
    matrices = {
        "token_embd": np.eye(SIZE, dtype=np.float32),
        "output": output,
        "output_norm": np.ones(SIZE, np.float32),
        "blk.0.attn_norm": np.ones(SIZE, np.float32),
        "blk.0.ffn_norm": np.ones(SIZE, np.float32),
    }
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        matrices[f"blk.0.{name}"] = np.zeros((SIZE, SIZE), np.float32)
    for name, shape in {
        "ffn_gate": (32, SIZE), "ffn_up": (32, SIZE), "ffn_down": (SIZE, 32),
    }.items():  # fmt: skip
        matrices[f"blk.0.{name}"] = np.zeros(shape, np.float32)
    for name, value in (changes or {}).items():
        matrices[name].flat[7] = value
    file = _header(context)
    if template is not None:
        file.set("tokenizer.chat_template", STRING, template)
    for name, matrix in matrices.items():
        file.tensors.append(Stored(f"{name}.weight", matrix.shape[::-1], 0, matrix.tobytes()))
    return file


def _header(context: int) -> GgufFile:
    file = GgufFile()
    file.set("general.architecture", STRING, "llama").set("general.name", STRING, "Speaker")
    for key, value in {
        "block_count": 1, "context_length": context, "embedding_length": SIZE,
        "feed_forward_length": 32, "attention.head_count": 9, "attention.head_count_kv": 9,
        "rope.dimension_count": 32,
    }.items():  # fmt: skip
        file.set(f"llama.{key}", U32, value)
    file.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    file.set("llama.rope.freq_base", F32, 10000.0)
    tokens = [*BYTE_TO_CHAR, *SPECIALS]
    file.set("tokenizer.ggml.model", STRING, "gpt2").set("tokenizer.ggml.pre", STRING, "gpt-2")
    file.set("tokenizer.ggml.tokens", ARRAY, (STRING, tokens))
    file.set("tokenizer.ggml.token_type", ARRAY, (I32, [1] * 256 + [3] * len(SPECIALS)))
    file.set("tokenizer.ggml.merges", ARRAY, (STRING, []))
    file.set("tokenizer.ggml.bos_token_id", U32, END).set("tokenizer.ggml.eos_token_id", U32, END)
    return file.set("tokenizer.ggml.add_bos_token", BOOL, 0)


def write_speaker(path: Path, says: bytes = b"Hi.", *, endless: bool = False,
                  context: int = 1024, template: str | None = None,
                  changes: Mapping[str, float] | None = None) -> Path:  # fmt: skip
    return speaker(
        says, endless=endless, context=context, template=template, changes=changes
    ).write(path)
