"""Training of detectors, matchers and global descriptors. Imported only by the command line."""
