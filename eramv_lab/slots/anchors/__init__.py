"""Anchors: which patches enter the sequence."""

from eramv_lab.slots.anchors._shared import CountedConfig, Selector, same_for_all

__all__ = ["CountedConfig", "Selector", "same_for_all"]
