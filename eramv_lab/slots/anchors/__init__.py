"""Anchors: which patches enter the sequence."""
