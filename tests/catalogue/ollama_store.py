"""Builds a store exactly as Ollama lays it out on disk."""

import hashlib
import json
from pathlib import Path
from typing import Any

KIND = "application/vnd.ollama.image."


class OllamaStore:
    """`models` is what OLLAMA_MODELS points to."""

    def __init__(self, models: Path) -> None:
        self.models = models
        (models / "blobs").mkdir(parents=True)

    def layer(self, kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (self.models / "blobs" / f"sha256-{digest}").write_bytes(content)
        return {"mediaType": KIND + kind, "digest": f"sha256:{digest}", "size": len(content)}

    def put(self, path: str, layers: list[dict[str, Any]], file_type: str = "F32") -> Path:
        """A manifest at REGISTRY/NAMESPACE/NAME/TAG."""
        summary = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"],
                   "model_type": "1M", "file_type": file_type, "architecture": "amd64",
                   "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}  # fmt: skip
        config = self.layer("config", json.dumps(summary).encode())
        config["mediaType"] = "application/vnd.docker.container.image.v1+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": config,
            "layers": layers,
        }
        file = self.models / "manifests" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(manifest))
        return file

    def model(self, path: str, gguf: bytes, **texts: str) -> Path:
        """A whole model, with texts by kind of layer."""
        layers = [self.layer("model", gguf)]
        layers += (self.layer(kind, text.encode()) for kind, text in texts.items())
        return self.put(path, layers)
