"""Anthropic's dialect: what its clients send to /v1/messages, and what they expect back."""
