"""Pairs of images: matched by a list, one image against a folder, drawn, and written for other programs."""
