"""What a run leaves behind: predictions files, tables, images, and one self-contained page."""
