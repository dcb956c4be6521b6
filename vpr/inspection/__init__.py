"""Finished runs looked at item by item: metrics of every pair or query, and the matches of some, as one page."""
