"""Who asks: keys, quotas and records of usage."""
