"""The reference Llama in PyTorch: the specification of every faster path."""
