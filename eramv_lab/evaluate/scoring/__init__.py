"""Rules by which answers are scored, one file each; none of them knows a model."""
