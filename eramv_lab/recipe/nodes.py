"""YAML as a tree that knows the file and line of every key, so that a problem can name them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from eramv_lab.errors import Problem, UserError, nearest


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something was written; no line for the command line."""

    file: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place: a scalar, a list of nodes, or nodes by key."""

    value: Any
    mark: Mark
    implied: bool = False
    """A mapping nobody wrote: `model` in `model.band.start: 2`."""

    @property
    def is_map(self) -> bool:
        """Whether it holds keys."""
        return isinstance(self.value, dict)


def to_data(node: Node) -> Any:
    """The tree as plain data, without places."""
    if isinstance(node.value, dict):
        return {key: to_data(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [to_data(child) for child in node.value]
    return node.value


def find(node: Node, key: str) -> Mark:
    """Where dotted `key` was written, or the deepest part of it that was."""
    mark = node.mark
    for part in key.split("."):
        children = node.value
        if isinstance(children, list) and part.isdigit() and int(part) < len(children):
            node = children[int(part)]
        elif isinstance(children, dict) and part in children:
            node = children[part]
        else:
            break
        mark = node.mark
    return mark


def leaves(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Node]]:
    """Every key that holds no further keys, with its path."""
    if not node.is_map:
        yield path, node
        return
    for key, child in node.value.items():
        yield from leaves(child, (*path, key))


def read_file(path: Path, shown: str, asked: Mark | None = None) -> Node:
    """The mapping in a YAML file. `shown` is the path that problems name, `asked` who asked for it.

    Raises UserError: no such file, not UTF-8, not YAML, a key twice, not a mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(Problem(message="this is not UTF-8 text", file=shown, line=line)) from None
    except OSError as error:
        raise UserError(_unreadable(path, shown, error, asked)) from None
    node = read_text(text, shown)
    if node.value is None:
        raise UserError(Problem(message="the file is empty", file=shown))
    if not node.is_map:
        found = "a list" if isinstance(node.value, list) else repr(node.value)
        message = f"a recipe is made of keys and values, found {found}"
        raise UserError(Problem(message=message, file=shown, line=node.mark.line))
    return node


def _unreadable(path: Path, shown: str, error: OSError, asked: Mark | None) -> Problem:
    near = None
    if isinstance(error, FileNotFoundError):
        message = f"there is no file {shown}"
        if path.parent.is_dir():
            names = [p.name for p in path.parent.glob("*.y*ml")]
            near = next((n for n in names if Path(n).stem == path.name), None) or nearest(
                path.name, names
            )
    elif path.is_dir():
        message = f"{shown} is a folder, not a recipe"
        near = "*.yaml" if any(path.glob("*.yaml")) else None
    else:
        message = f"{shown} cannot be read: {error.strerror}"
    inside = Path(shown) if path.is_dir() else Path(shown).parent
    return Problem(
        message=message,
        file=asked.file if asked else None,
        line=asked.line if asked else None,
        key="extends" if asked else None,
        nearest=str(inside / near) if near else None,
    )


@lru_cache(maxsize=256)  # nobody changes a tree, and most recipes extend the same few files
def read_text(text: str, file: str, line: int | None = 1) -> Node:
    """The tree of a YAML text; `line` None (the command line) leaves lines out."""
    builder = _Builder(file, line is not None)
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
        node = builder.build(root) if root is not None else Node(None, Mark(file, line))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = mark.line + 1 if mark and line is not None else None
        raise UserError(Problem(message=_syntax(error), file=file, line=at)) from None
    except ReaderError as error:
        message = f"character {error.character!r} cannot stand in YAML"
        raise UserError(Problem(message=message, file=file)) from None
    except RecursionError:
        raise UserError(Problem(message="nested too deeply", file=file)) from None
    if builder.problems:
        raise UserError(builder.problems)
    return node


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "this is not YAML"
    if "'\\t'" in problem:
        return "a tab cannot indent YAML; use spaces"
    if "expected <block end>" in problem:
        return "the indentation does not fit the lines above"
    return f"this is not YAML: {problem}"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars (1e-3 is a number, `on` and 2020-01-01 are text), no aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            problem = "aliases (*name) are not read; write extends: or ${key}"
            raise ComposerError(None, None, problem, mark)
        return super().compose_node(parent, index)


_SCALARS = (
    ("null", r"~|null|Null|NULL|", "~nN", lambda text: None),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    ("int", r"[-+]?[0-9]+", "-+0123456789", int),
    (
        "float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
        float,
    ),
)
_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first, _ in _SCALARS:
    _Loader.add_implicit_resolver(
        _TAG + _name, re.compile(f"^(?:{_pattern})$"), [*_first, *([""] * (_name == "null"))]
    )
_READ = {_TAG + name: read for name, _, _, read in _SCALARS} | {_TAG + "str": str}
_TAGS = {*_READ, _TAG + "map", _TAG + "seq"}


class _Builder:
    """Turns PyYAML's nodes into ours, and gathers what they may not hold."""

    def __init__(self, file: str, lines: bool) -> None:
        self.file = file
        self.lines = lines
        self.problems: list[Problem] = []

    def build(self, node: yaml.Node) -> Node:
        mark = self._mark(node)
        if node.tag not in _TAGS:
            self._problem(node, f"the tag {node.tag.removeprefix(_TAG)!r} is not read")
            return Node(None, mark)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.build(child) for child in node.value], mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node)
        read = _READ.get(node.tag, str)
        try:
            return Node(read(node.value), mark)
        except ValueError:
            self._problem(node, f"{node.value!r} is not a number")
            return Node(None, mark)

    def _mapping(self, node: yaml.MappingNode) -> Node:
        children: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                self._problem(key, "a key is a word")
                continue
            if key.value in children:
                first = children[key.value].mark.line
                where = f" (first in line {first})" if self.lines else ""
                self._problem(key, f"key {key.value!r} is written twice{where}")
            child = self.build(value)
            children[key.value] = Node(child.value, self._mark(key))
        return Node(children, self._mark(node))

    def _mark(self, node: yaml.Node) -> Mark:
        return Mark(self.file, node.start_mark.line + 1 if self.lines else None)

    def _problem(self, node: yaml.Node, message: str) -> None:
        mark = self._mark(node)
        self.problems.append(Problem(message=message, file=mark.file, line=mark.line))
