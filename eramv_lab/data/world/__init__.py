"""The made world: scenes and questions drawn by the program from a seed, split and index."""
