"""transformers' Auto classes know our models once `eramv_lab` is imported, and nothing is loaded.

Their tables name a class by the module `transformers.models.<model type>`, imported when it is
asked for. Our names are put into the tables, when these are there, and that module is ours.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

MODEL_TYPE = "eramv"
ALIAS = f"transformers.models.{MODEL_TYPE}"
OURS = "eramv_lab.model"
AUTO = "transformers.models.auto."
NAMES = {
    AUTO + "configuration_auto": ("CONFIG_MAPPING_NAMES", "EramvConfig"),
    AUTO + "modeling_auto": (
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        "EramvForConditionalGeneration",
    ),
    AUTO + "processing_auto": ("PROCESSOR_MAPPING_NAMES", "EramvProcessor"),
}
"""Modules of transformers, the table of each, and our name in it."""


class _Alias(importlib.abc.Loader):
    """`transformers.models.eramv` is `eramv_lab.model`."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: getattr(importlib.import_module(OURS), name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: every name is looked up in ours."""


class _Named(importlib.abc.Loader):
    """A module of transformers, our name put into its table."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.own.exec_module(module)
        _name_in(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are watched; every other one is left to the finders behind it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == ALIAS:
            return importlib.machinery.ModuleSpec(fullname, _Alias())
        if fullname not in NAMES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Named(spec.loader)
        return spec


def _name_in(module: ModuleType) -> None:
    table, name = NAMES[module.__name__]
    names = getattr(module, table, None)
    if isinstance(names, dict):  # a table of another shape is left alone: see `eramv_lab.model`
        names.setdefault(MODEL_TYPE, name)


def install() -> None:
    """Watch for transformers' tables; where they are there already, register at once."""
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, Finder())
    if any(name in sys.modules for name in NAMES):
        importlib.import_module(OURS)
