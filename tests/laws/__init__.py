"""The laws of the design, run over every registered component and over whole models."""
