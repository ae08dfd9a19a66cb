"""Tests of the data: the package is named so that others may use its pictures."""
