"""What a run leaves behind: predictions files, tables, pictures, and one self-contained page."""
