"""Features, matches and databases in the files of other programs."""
