"""What an operator sees of a server: metrics, logs, traces. Each is an `Observer` of its calls."""
