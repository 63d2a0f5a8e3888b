"""What a model's name stands for: a model here, one of its adapters, or another server."""
