"""Alpage's own routes about text: ids of texts, prompts of conversations, texts in order of use."""
