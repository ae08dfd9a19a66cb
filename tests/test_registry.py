"""Registering components: exact names, loud duplicates, entry points, documentation."""

from dataclasses import dataclass, field, fields
from importlib import metadata

import pytest

from eramv_lab import registry
from eramv_lab.errors import UserError
from eramv_lab.registry import SLOTS, Registry, field_docs, load_plugins


@dataclass(frozen=True, kw_only=True)
class AlphaConfig:
    """The first piece.

    More about it.
    """

    size: int = 1
    """How large."""
    names: list[str] = field(default_factory=list)
    """Whose,
    on two lines."""
    bare: int = 0


@dataclass(frozen=True, kw_only=True)
class BetaConfig(AlphaConfig):
    """The second piece."""

    size: int = 2
    """Larger."""


@pytest.fixture
def slot():
    empty = Registry(slot="thing", question="what", package="eramv_lab.slots.bridges")
    empty._loaded = True
    return empty


def test_register_and_get(slot):
    @slot.register("alpha", AlphaConfig)
    def build(config, dims):
        return config

    component = slot.get("alpha")
    assert component.factory is build and component.summary == "The first piece."
    assert slot.of(AlphaConfig(size=3)) is component and slot.names() == ["alpha"]
    assert component.origin.partition(":")[0].endswith("test_registry.py")
    with pytest.raises(UserError, match="did you mean: alpha"):
        slot.get("alfa")


def test_a_name_or_a_config_is_taken_once(slot):
    slot.register("alpha", AlphaConfig)(lambda config, dims: None)
    with pytest.raises(ValueError, match=r"'alpha' is registered at .*test_registry.*again"):
        slot.register("alpha", BetaConfig)(lambda config, dims: None)
    with pytest.raises(ValueError, match="again as 'other'"):
        slot.register("other", AlphaConfig)(lambda config, dims: None)


def test_a_config_is_a_frozen_keyword_only_dataclass(slot):
    @dataclass
    class Loose:
        size: int = 1

    for config in (Loose, int):
        with pytest.raises(ValueError, match="frozen, kw_only"):
            slot.register("x", config)


def test_field_docs_follow_bases():
    assert field_docs(BetaConfig) == {"size": "Larger.", "names": "Whose,\non two lines."}


@pytest.mark.parametrize("error", [SystemExit(0), ImportError("no module here")])
def test_an_installed_plugin_that_fails_is_named(monkeypatch, error):
    class Point:
        name, value = "mine", "my_package.my_components"

        def load(self):
            raise error

    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [Point()])
    with pytest.raises(UserError, match=r"plugin 'mine' .* failed"):
        registry._load_entry_points()


def test_entry_points_are_loaded_once(monkeypatch):
    loaded = []

    class Point:
        def load(self):
            loaded.append(1)

    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [Point()] * (group == registry.ENTRY_POINTS)
    )
    for _ in range(2):
        registry._load_entry_points()
    assert loaded == [1]


def test_plugins_that_cannot_be_imported():
    (problem,) = load_plugins(["json", "no.such.module"])
    assert "no.such.module" in problem.message


@pytest.mark.parametrize("name", SLOTS)
def test_every_component_and_every_key_is_documented(name):
    for component in SLOTS[name]:
        assert component.summary, component
        keys = {f.name for f in fields(component.config)}
        undocumented = keys - field_docs(component.config).keys()
        assert not undocumented, (component.name, undocumented)
