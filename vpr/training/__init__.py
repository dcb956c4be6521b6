"""Training of detectors, matchers and global descriptors. Imported by the command line alone."""
