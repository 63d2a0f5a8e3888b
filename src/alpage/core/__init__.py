"""Errors, settings, paths and the few types that every part shares; standard library only."""
