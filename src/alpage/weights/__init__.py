"""GGUF, safetensors and checkpoints in and out: tensors and configuration."""
