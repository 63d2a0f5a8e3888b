"""Scheduler, paged cache, sampling and the runners that compute logits."""
