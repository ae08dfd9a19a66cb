"""Sweeps: the best setting within a compute budget, searched by many workers."""
