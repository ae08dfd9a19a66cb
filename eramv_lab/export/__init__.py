"""Finished fits as folders that transformers loads, with a card that says what they are worth."""
