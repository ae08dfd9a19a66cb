"""Language models: who answers."""
