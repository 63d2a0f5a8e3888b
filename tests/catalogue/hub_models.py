"""Repositories as hubs have them: small models that really open, and what lies beside them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from tests.catalogue.hub_server import HubServer, hub_server
from tests.weights.gguf_files import TOKENS, tiny_model

CARD = (
    "---\nlicense: cc0-1.0\nbase_model: nobody/base\ndatasets:\n- noise\n---\n"
    "# Tiny\n\nA model for tests.\x1b[31m red \x07 bell\x9b2J\n"
)
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32,
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
GGUF = tiny_model().to_bytes()


def tensors(seed: int = 0) -> dict[str, Any]:
    """Random weights of the shape in CONFIG, by Hugging Face's names."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (32, 32), "lm_head.weight": (32, 32),
        "model.norm.weight": (32,),
    }  # fmt: skip
    for layer in range(2):
        for name, shape in {
            "self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32),
            "self_attn.v_proj": (16, 32), "self_attn.o_proj": (32, 32), "mlp.gate_proj": (64, 32),
            "mlp.up_proj": (64, 32), "mlp.down_proj": (32, 64), "input_layernorm": (32,),
            "post_attention_layernorm": (32,),
        }.items():  # fmt: skip
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def folder(seed: int = 0, **config: Any) -> dict[str, bytes]:
    """A repository with one safetensors file, pickles beside it, and a picture."""
    tokenizer = {
        "version": "1.0", "added_tokens": [],
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(TOKENS)}, "merges": []},
    }  # fmt: skip
    return {
        "config.json": json.dumps(CONFIG | config).encode(),
        "generation_config.json": b'{"eos_token_id": 2}',
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "tokenizer_config.json": b'{"chat_template": "{{ messages[0].content }}"}',
        "model.safetensors": safetensors.numpy.save(tensors(seed)),
        "README.md": CARD.encode(),
        "LICENSE": b"Do what you like.\n",
        "NOTICE.txt": b"Made of noise.\n",
        "pytorch_model.bin": b"\x80\x02cos\nsystem\n",
        "original/consolidated.00.pth": b"PK",
        "picture.png": b"\x89PNG",
        ".gitattributes": b"*.safetensors filter=lfs\n",
    }


def sharded() -> dict[str, bytes]:
    """The same in two shards with an index, and a third file that the index does not name."""
    files, weights = folder(), tensors()
    del files["model.safetensors"]
    names = sorted(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[:10],
        "model-00002-of-00002.safetensors": names[10:],
    }
    for shard, inside in parts.items():
        files[shard] = safetensors.numpy.save({name: weights[name] for name in inside})
    files["consolidated.safetensors"] = b"the same again in another layout"
    where = {name: shard for shard, inside in parts.items() for name in inside}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    return files


def ggufs() -> dict[str, bytes]:
    """A repository of GGUF files of several types."""
    return {
        "README.md": CARD.encode(),
        "tiny-Q8_0.gguf": tiny_model(tied=False).to_bytes(),
        "tiny-Q4_K_M.gguf": GGUF,
        "mmproj-tiny-F16.gguf": b"a projector",
        "config.json": b'{"model_type": "llama"}',
    }


@contextmanager
def hub_for_this_process(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that `huggingface_hub` in this process talks to, without waiting between tries."""
    from huggingface_hub import close_session, constants

    with hub_server() as server:
        patch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 5)
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        for name in [key for key in os.environ if key.startswith("HF_TOKEN")]:
            patch.delenv(name)
        patch.setattr("alpage.catalogue.hub._FIRST_WAIT", 0.0)
        yield server
        close_session()
