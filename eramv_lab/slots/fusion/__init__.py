"""Fusion: how a band layer reads the fine features."""
