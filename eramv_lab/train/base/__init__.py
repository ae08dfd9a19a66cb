"""The base that every arm starts from: a tiny tower, a connector, a tiny language model."""
