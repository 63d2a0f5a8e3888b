"""The command line: one verb per file."""

from alpage.cli.app import main

__all__ = ["main"]
