"""The report of a run: built from its facts, rendered from the built report alone."""
