"""What the layers of a model do with vision."""
