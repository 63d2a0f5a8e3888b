"""GGUF and safetensors in, tensors and configuration out; the model catalogue."""
