"""Models from one format into another, with their licence and lineage."""
