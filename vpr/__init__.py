"""Two-stage visual place recognition: retrieve with global descriptors, re-rank with local features."""

__version__ = "0.1.0"
