"""Training: one arm in one process, and studies of many."""
