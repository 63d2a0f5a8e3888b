"""What Ollama's clients are told about models: /api/tags, /api/ps and /api/show."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from alpage.llama import ModelInfo
from alpage.server.accounts.caller import Caller
from alpage.server.backends.local import LocalModel
from alpage.server.backends.protocol import ModelCard
from alpage.server.errors import RequestError
from alpage.server.ollama.answers import timestamp
from alpage.server.ollama.fields import DEFAULTS
from alpage.server.ollama.names import served_name
from alpage.server.openai.fields import Body, Refused
from alpage.server.pool import Pool

_FOR_EVER = "9999-12-31T23:59:59Z"


class Naming(Body):
    """A body that names a model, by `model` or by the older `name`."""

    model: str | None = None
    name: str | None = None

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        if not self.named:
            raise RequestError("model is missing: give the name of a model", param="model")

    @property
    def named(self) -> str:
        """The name."""
        return self.model or self.name or ""


class OllamaShow(Naming):
    """The body of POST /api/show."""

    verbose: Literal[False] | None = None
    system: Refused = None
    template: Refused = None
    options: Refused = None


def tags(pool: Pool, caller: Caller) -> dict[str, Any]:
    """Every model that the caller may ask."""
    loaded = _loaded(pool)
    return {"models": [_listed(card, _engine(card, loaded)) for card in pool.cards(caller)]}


def running(pool: Pool, caller: Caller) -> dict[str, Any]:
    """Those that are in memory here."""
    loaded = _loaded(pool)
    found: list[dict[str, Any]] = []
    for card in pool.cards(caller):
        model = _engine(card, loaded)
        if model is not None and card.loaded:
            found.append(_running(card, model, pool))
    return {"models": found}


def show(asked: OllamaShow, pool: Pool, caller: Caller) -> dict[str, Any]:
    """All that is known of a model; of one that is not loaded only what its card says."""
    name = served_name(asked.named, pool, caller)
    card = pool.card(name, caller)
    model = _engine(card, _loaded(pool))
    license_ = card.licence or ""
    template = model.llm.chat_template if model else ""
    return {
        "license": license_,
        "modelfile": _modelfile(card.name, template, license_),
        "parameters": _parameters(card),
        "template": template,
        "details": _details(card, model),
        "model_info": _model_info(card, model),
        "capabilities": ["completion", "tools", *(["embedding"] if model else [])],
        "modified_at": timestamp(card.created),
    }


def _loaded(pool: Pool) -> dict[str, LocalModel]:
    return {model.card.name: model for model in pool if isinstance(model, LocalModel)}


def _engine(card: ModelCard, loaded: Mapping[str, LocalModel]) -> LocalModel | None:
    """What runs a model, where that is in memory: an adapter's is its parent's."""
    return loaded.get(card.name if card.parent is None else card.parent)


def _listed(card: ModelCard, model: LocalModel | None) -> dict[str, Any]:
    details = _details(card, model)
    size = model.llm.model.weight_bytes if model else 0
    return {
        "name": card.name,
        "model": card.name,
        "modified_at": timestamp(card.created),
        "size": size,
        "digest": _digest([card.name, card.kind, card.parent, size, details]),
        "details": details,
    }


def _running(card: ModelCard, model: LocalModel, pool: Pool) -> dict[str, Any]:
    listed = _listed(card, model)
    del listed["modified_at"]
    expires = pool.expires(card.name)
    return {
        **listed,
        "size": pool.bytes_of(card.name),
        "expires_at": _FOR_EVER if expires is None else timestamp(expires),
        "size_vram": 0,  # everything runs on the processor
        "context_length": card.context,
    }


def _digest(facts: Iterable[Any]) -> str:
    """Changes with what is known of a model: Ollama's is that of a manifest, not of the weights."""
    return hashlib.sha256(json.dumps(list(facts)).encode()).hexdigest()


def _details(card: ModelCard, model: LocalModel | None) -> dict[str, Any]:
    info = model.llm.model if model else None
    family = ["llama"] if info else []
    return {
        "parent_model": card.parent or "",
        "format": info.format if info else "",
        "family": "".join(family),
        "families": family,
        "parameter_size": _count(info.config.parameter_count) if info else "",
        "quantization_level": info.quantization if info else "",
    }


def _count(parameters: int) -> str:
    """As Ollama writes it: 134.52M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.2f}{unit}"
    return str(parameters)


def _parameters(card: ModelCard) -> str:
    """What answers are sampled with unless a request says otherwise, a line each."""
    values: dict[str, Any] = {**DEFAULTS}
    if card.context is not None:
        values["num_ctx"] = card.context
    return "\n".join(f"{name:<30} {value}" for name, value in values.items())


def _modelfile(name: str, template: str, license_: str) -> str:
    parts = [f"FROM {name}"]
    if template:
        parts.append(f'TEMPLATE """{template}"""')
    if license_:
        parts.append(f'LICENSE """{license_}"""')
    return "\n".join(parts) + "\n"


def _model_info(card: ModelCard, model: LocalModel | None) -> dict[str, Any]:
    """Facts under the keys that GGUF has for them."""
    if model is None:
        return {} if card.context is None else {"llama.context_length": card.context}
    return {**_shape(model.llm.model), **_vocabulary(model)}


def _shape(info: ModelInfo) -> dict[str, Any]:
    config = info.config
    facts: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": info.name,
        "general.license": info.licence,
        "general.parameter_count": config.parameter_count,
        "llama.context_length": config.context_length,
        "llama.embedding_length": config.dim,
        "llama.block_count": config.n_layers,
        "llama.feed_forward_length": config.ffn_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_theta,
        "llama.vocab_size": config.vocab_size,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _vocabulary(model: LocalModel) -> dict[str, Any]:
    tokenizer = model.llm.tokenizer
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    known = {f"tokenizer.ggml.{n}_token_id": i for n, i in ids.items() if i is not None}
    return {**known, "tokenizer.ggml.add_bos_token": tokenizer.add_bos}
