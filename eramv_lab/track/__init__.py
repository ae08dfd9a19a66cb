"""MLflow as the lab's memory: one SQLite file, a parent run per study, a child run per fit."""
