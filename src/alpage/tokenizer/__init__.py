"""Text to ids and back, special tokens, streaming detokenisation."""
