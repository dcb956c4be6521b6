"""Extraction over an image set, and the stores its results lie in."""
