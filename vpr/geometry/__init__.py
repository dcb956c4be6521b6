"""Benchmarks of local features and matchers on image pairs with a known homography or relative pose."""
