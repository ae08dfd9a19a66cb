"""Scores by generation, and how sure one can be of them."""
