"""Components by slot and name: one registry per slot, exact names, loud duplicates."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import itertools
import pkgutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from eramv_lab.errors import Problem, UserError, nearest

ENTRY_POINTS = "eramv_lab.components"
Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A registered piece: its name, its config class, and what builds it from (config, dims)."""

    slot: str
    name: str
    config: type[Any]
    factory: Callable[..., Any]
    origin: str
    """`file:line` of the factory."""

    @property
    def summary(self) -> str:
        """First line of the config's docstring."""
        return (inspect.getdoc(self.config) or "").split("\n", 1)[0]


@dataclass
class Registry:
    """The components of one slot."""

    slot: str
    question: str
    """What the slot decides, in words."""
    package: str
    """Package whose modules register the built-in components when imported."""
    entries: dict[str, Component] = field(default_factory=dict[str, Component])
    by_config: dict[type[Any], Component] = field(default_factory=dict[type[Any], Component])
    _loaded: bool = False

    def register(self, name: str, config: type[Any]) -> Callable[[Factory], Factory]:
        """Class (or function) decorator: `name` in a recipe builds the decorated factory.

        `config` must be a frozen, keyword-only dataclass. Raises ValueError where it is not, and
        where the name or the config class is taken, naming both places.
        """
        _check_config(config, f"{self.slot} {name!r}")

        def decorate(factory: Factory) -> Factory:
            component = Component(
                slot=self.slot, name=name, config=config, factory=factory, origin=_origin(factory)
            )
            for taken in (self.entries.get(name), self.by_config.get(config)):
                if taken is not None:
                    raise ValueError(
                        f"{self.slot} {taken.name!r} is registered at {taken.origin}, "
                        f"and again as {name!r} at {component.origin}"
                    )
            self.entries[name] = component
            self.by_config[config] = component
            return factory

        return decorate

    def load(self) -> None:
        """Import the built-in components and those of installed packages, once."""
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{self.package}.{module}")
        _load_entry_points()

    def names(self) -> list[str]:
        """Names of all components, built in first, in order of registration."""
        self.load()
        return list(self.entries)

    def get(self, name: str) -> Component:
        """The component called `name`. Raises UserError with the nearest name."""
        self.load()
        if name not in self.entries:
            raise UserError(self.unknown(name))
        return self.entries[name]

    def unknown(self, name: object) -> Problem:
        """The problem of a name that is not registered, for a report."""
        names = self.names()
        return Problem(
            message=f"there is no {self.slot} {name!r}",
            allowed=tuple(names),
            nearest=nearest(str(name), names),
        )

    def of(self, config: object) -> Component:
        """The component whose config `config` is."""
        self.load()
        return self.by_config[type(config)]

    def __iter__(self) -> Iterator[Component]:
        self.load()
        return iter(self.entries.values())


def _slot(name: str, question: str, package: str) -> Registry:
    return Registry(slot=name, question=question, package=f"eramv_lab.slots.{package}")


VISION = _slot("vision", "what looks at the image", "vision")
ANCHORS = _slot("anchors", "which patches enter the sequence", "anchors")
CONNECTOR = _slot("connector", "how vision width becomes language width", "connectors")
FINE = _slot("fine", "what the band can read", "fine")
FUSION = _slot("fusion", "how the band's layers read the fine features", "fusion")
BRIDGE = _slot("bridge", "what a band layer does to the fine features first", "bridges")
SHARING = _slot("sharing", "whose projections the band uses", "sharing")
REDUCER = _slot("reducer", "what leaves, waits or freezes inside the language model", "reducers")
LANGUAGE = _slot("language", "who answers", "language")
PROMPT = _slot("prompt", "order, template and positions", "prompts")

SLOTS: dict[str, Registry] = {
    r.slot: r
    for r in (VISION, ANCHORS, CONNECTOR, FINE, FUSION, BRIDGE, SHARING, REDUCER, LANGUAGE, PROMPT)
}


def load_plugins(modules: list[str]) -> list[Problem]:
    """Import third-party modules named by a recipe; what could not be imported comes back."""
    problems: list[Problem] = []
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            problems.append(Problem(message=f"plugin {name!r} cannot be imported: {error}"))
        else:
            _plugins[name] = None
    return problems


_plugins: dict[str, None] = {}


def plugins() -> list[str]:
    """The third-party modules that recipes have named: a process that begins anew needs them."""
    return list(_plugins)


def load_again(names: Iterable[str]) -> None:
    """Load plugins in a process that begins anew. What cannot be loaded here is told on standard
    error and forgotten: a recipe that needs it fails by the component's name.
    """
    for name in names:
        try:
            said = [problem.render() for problem in load_plugins([name])]
        except (Exception, SystemExit) as error:  # foreign code
            said = [f"plugin {name!r} failed: {error!r}"]
        for line in said:
            print(line, file=sys.stderr)


_entry_points_loaded = False


def _load_entry_points() -> None:
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except (Exception, SystemExit) as error:  # foreign code: whatever it raises is reported
            raise UserError(
                f"the installed plugin {point.name!r} ({point.value}) failed: "
                f"{type(error).__name__}: {error}"
            ) from error


def field_docs(config: type[Any]) -> dict[str, str]:
    """Docstrings written below the fields of a dataclass, by field name, bases included."""
    docs: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        body = next(n.body for n in ast.parse(source).body if isinstance(n, ast.ClassDef))
        for node, after in itertools.pairwise(body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[node.target.id] = inspect.cleandoc(after.value.value)
    return docs


def _check_config(config: type[Any], what: str) -> None:
    params = getattr(config, "__dataclass_params__", None)
    if (
        params is None
        or not params.frozen
        or not all(f.kw_only for f in dataclasses.fields(config))
    ):
        raise ValueError(
            f"{what}: the config {config.__name__} must be a frozen, kw_only dataclass"
        )


def _origin(factory: Callable[..., Any]) -> str:
    try:
        return f"{inspect.getsourcefile(factory)}:{inspect.getsourcelines(factory)[1]}"
    except (OSError, TypeError):
        return repr(factory)
