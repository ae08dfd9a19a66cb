"""Prompts: where the image stands, which words are around it, which positions its rows have."""
