"""How good a ranking is, and how certain that is."""
