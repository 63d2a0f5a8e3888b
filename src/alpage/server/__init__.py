"""The HTTP interface: dialects of OpenAI, Anthropic and Ollama; keys, quotas, models, metrics."""
