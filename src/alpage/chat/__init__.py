"""Chat templates, stop strings and tool-call parsing: pure functions on text."""
