"""Data sets as others write them, read into samples."""
