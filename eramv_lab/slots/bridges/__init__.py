"""Bridges: what a band layer does to the fine features before it reads them."""
