"""Our modules as pieces: what a definition needs, and its text without what only the lab needs."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eramv_lab.errors import LabError

STAND_INS = {
    "eramv_lab.registry": (
        *("VISION", "ANCHORS", "CONNECTOR", "FINE", "FUSION", "BRIDGE", "SHARING", "REDUCER"),
        *("LANGUAGE", "PROMPT", "SLOTS", "Registry", "Component"),
    ),
    "eramv_lab.recipe.parse": ("parse_component", "to_plain"),
    "eramv_lab.recipe.model_spec": ("parse_model",),
    "eramv_lab.slots.hub": ("config_of",),
}
"""Names by module that `stand_ins` gives in their place."""
STAND_IN = "eramv_lab.export.stand_ins"
LAB_ONLY = frozenset({"check", "ops", "memory_ops", "row_ops", "decode_ops", "parameters"})
"""Methods of a component's config that check and price a recipe."""
CONVERTS = frozenset({"from_llava"})
"""Methods of the model that need the lab."""

Key = tuple[str, str]
"""(module, name) of a definition."""


@dataclass(frozen=True)
class External:
    """A name imported from a library."""

    module: str
    name: str | None
    """None: the module itself."""


@dataclass
class Source:
    """A module's text and what its names are."""

    name: str
    ours: frozenset[str]
    """Top packages whose modules go along."""
    used: frozenset[tuple[str, str]] = frozenset()
    """(slot's registry, component's name) that the model uses: other registrations are left out."""
    imports: dict[str, Key | External] = field(default_factory=dict[str, Key | External])
    statements: dict[str, ast.stmt] = field(default_factory=dict[str, ast.stmt])
    """Definitions by name, in order."""

    def __post_init__(self) -> None:
        spec = importlib.util.find_spec(self.name)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            raise LabError(
                f"{self.name} has no source file, so it cannot go into a standalone folder"
            )
        self.path = Path(spec.origin)
        self.package = (
            self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        )
        self.bytes = self.path.read_bytes()
        self.tree = ast.parse(self.bytes)
        for node in self.tree.body:
            self._read(node)

    def _read(self, node: ast.stmt) -> None:
        match node:
            case ast.Import() | ast.ImportFrom():
                self._read_import(node)
            case ast.If() if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                for inner in node.body:
                    self._read(inner)
            case ast.FunctionDef() | ast.ClassDef():
                self.statements[node.name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                self.statements[name] = node
            case ast.Expr(value=ast.Constant()):
                pass
            case _ if self.name.partition(".")[0] == "eramv_lab":
                pass  # registrations with Auto classes: a standalone folder has none
            case _:
                raise LabError(
                    f"{self.path}:{node.lineno}: a standalone folder takes definitions and imports "
                    f"alone, found {ast.unparse(node)[:60]!r}"
                )

    def _read_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                self.imports[alias.asname or whole] = External(whole, None)
            return
        module = node.module or ""
        if node.level:
            above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            module = ".".join([*above, *([module] if module else [])])
        if module == "__future__":
            return
        for alias in node.names:
            name, ours = alias.asname or alias.name, module.partition(".")[0] in self.ours
            self.imports[name] = (module, alias.name) if ours else External(module, alias.name)

    @cached_property
    def _lines(self) -> list[int]:
        """Where each line begins, in bytes."""
        starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        return starts

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    def kept(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes of a definition that stay."""
        if _is_annotated(node):  # the constraint is for recipes, and is pydantic's
            yield from self.kept(node.slice.elts[0])  # type: ignore[attr-defined]
            return
        yield node
        gone = {id(n) for n in self._left_out(node)}
        for child in ast.iter_child_nodes(node):
            if id(child) not in gone:
                yield from self.kept(child)

    def _left_out(self, node: ast.AST) -> Iterator[Any]:
        """Methods and decorators that only the lab needs."""
        if isinstance(node, ast.ClassDef):
            names = LAB_ONLY if _is_config(node) else CONVERTS
            yield from (n for n in node.body if getattr(n, "name", None) in names)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from (d for d in node.decorator_list if self._registers_another(d))

    def _registers_another(self, node: ast.expr) -> bool:
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=where), attr="register"),
                args=[ast.Constant(value=name), _],
            ) if where in self.imports:
                return (where, str(name)) not in self.used
        return False

    def needs(self, name: str) -> set[str]:
        """Names of this module that a definition refers to."""
        known = self.statements.keys() | self.imports.keys()
        nodes = self.kept(self.statements[name])
        return {n.id for n in nodes if isinstance(n, ast.Name) and n.id in known} - {name}

    def needs_first(self, name: str) -> set[str]:
        """Those that have to stand above it: what its definition evaluates."""
        node = self.statements[name]
        gone = {id(n) for n in self._left_out(node)}
        evaluated = list(_evaluated(node, gone))
        found = [n for e in evaluated if id(e) not in gone for n in ast.walk(e)]
        known = self.statements.keys() | self.imports.keys()
        return {n.id for n in found if isinstance(n, ast.Name) and n.id in known} - {name}

    def text(self, name: str, renamed: dict[str, str]) -> str:
        """A definition's own lines, comments above and docstring below it, names changed."""
        node = self.statements[name]
        edits: list[tuple[int, int, bytes]] = []
        for one in ast.walk(node):
            edits += [(*self._whole_lines(gone), b"") for gone in self._left_out(one)]
            if _is_annotated(one):
                (start, end), inner = self._span(one), self._span(one.slice.elts[0])  # type: ignore
                edits += [(start, inner[0], b""), (inner[1], end, b"")]
        for one in self.kept(node):
            if isinstance(one, ast.Name) and one.id in renamed:
                edits.append((*self._span(one), renamed[one.id].encode()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and name in renamed:
            start, end = self._span(node)
            at = self.bytes.index(f" {name}".encode(), start, end) + 1
            edits.append((at, at + len(name), renamed[name].encode()))
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        lines = self.bytes.splitlines()
        while first > 1 and lines[first - 2].startswith(b"#"):
            first -= 1
        start, end = self._lines[first - 1], self._span(self._last(node))[1]
        text = self.bytes[start:end]
        for at, upto, new in sorted(set(edits), reverse=True):
            text = text[: at - start] + new + text[upto - start :]
        return text.decode().rstrip()

    def _last(self, node: ast.stmt) -> ast.stmt:
        """The docstring below an assignment, or the node."""
        after = (
            self.tree.body[self.tree.body.index(node) + 1 :][:1] if node in self.tree.body else []
        )
        if isinstance(node, ast.Assign | ast.AnnAssign) and after:
            match after[0]:
                case ast.Expr(value=ast.Constant(value=str())):
                    return after[0]
        return node

    def _whole_lines(self, gone: Any) -> tuple[int, int]:
        """The bytes of a method or decorator with the empty lines behind it."""
        first = min([gone.lineno, *(d.lineno for d in getattr(gone, "decorator_list", []))])
        last, lines = gone.end_lineno, self.bytes.splitlines()
        while last < len(lines) and not lines[last].strip():
            last += 1
        return self._lines[first - 1], self._lines[last]


def _evaluated(node: ast.AST, gone: Collection[int]) -> Iterator[ast.AST]:
    """What runs when a definition is read: not bodies of functions, not annotations.

    `gone` are the ids of the methods that are left out.
    """
    match node:
        case ast.FunctionDef(args=args):
            yield from (*node.decorator_list, *args.defaults, *filter(None, args.kw_defaults))
        case ast.ClassDef():
            yield from (*node.decorator_list, *node.bases, *node.keywords)
            for inner in node.body:
                if id(inner) not in gone:
                    yield from _evaluated(inner, gone)
        case ast.Assign(value=value) | ast.Expr(value=value):
            yield value
        case ast.AnnAssign(value=value) if value is not None:
            yield value


def _is_config(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(d) for d in node.decorator_list)


def _is_annotated(node: ast.AST) -> bool:
    match node:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[_, _])):
            return True
    return False


class Sources:
    """Every module that has been asked for, and what a name in one of them is."""

    def __init__(self, ours: Iterable[str], used: Iterable[tuple[str, str]]) -> None:
        self.ours, self.used = frozenset(ours), frozenset(used)
        self.read: dict[str, Source] = {}

    def module(self, name: str) -> Source:
        """The module's source, read once."""
        if name not in self.read:
            self.read[name] = Source(name, self.ours, self.used)
        return self.read[name]

    def meaning(self, key: Key) -> Key | External:
        """The definition or library name that a module's name stands for."""
        module, name = key
        if name in STAND_INS.get(module, ()):
            return STAND_IN, name
        source = self.module(module)
        if name in source.statements:
            return key
        if name not in source.imports:
            raise LabError(f"{source.path}: {name} is no definition, so it cannot stand alone")
        found = source.imports[name]
        return found if isinstance(found, External) else self.meaning(found)

    def closure(self, roots: Iterable[Key]) -> tuple[set[Key], set[tuple[str, str, External]]]:
        """Definitions that the roots need, and (module, name, library name) that these import."""
        found: set[Key] = set()
        libraries: set[tuple[str, str, External]] = set()
        waiting = list(roots)
        while waiting:
            key = waiting.pop()
            meaning = self.meaning(key)
            if isinstance(meaning, External):
                libraries.add((*key, meaning))
            elif meaning not in found:
                found.add(meaning)
                source = self.module(meaning[0])
                waiting += [(meaning[0], name) for name in source.needs(meaning[1])]
        return found, libraries
