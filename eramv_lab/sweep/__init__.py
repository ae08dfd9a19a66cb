"""Searches over recipes within a compute budget: space, study, workers, finals."""
