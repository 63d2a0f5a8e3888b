"""Figures of speed and memory on one machine, measured alike for Alpage and for a peer."""
