"""Measures of a ranking, with their uncertainty."""
