"""One file for each step; released ones never change."""
