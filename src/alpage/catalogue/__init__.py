"""Models by name: the built-in ones, a hub's, a local Ollama store's; pulled, checked, removed."""
