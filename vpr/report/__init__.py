"""Output of a run: predictions files, tables, images, and one self-contained page."""
