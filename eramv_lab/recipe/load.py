"""Recipe files as one tree: what each extends, its arms, and overrides from the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.league import League
from eramv_lab.recipe.merge import expand, merge
from eramv_lab.recipe.nodes import Mark, Node, find, read_file, read_text, to_data
from eramv_lab.recipe.parse import choice

COMMAND_LINE = "command line"
WHOLE = ("expect", "question", "system")
"""Keys whose contents are not keys of the recipe: nothing in them is unfolded."""
OWN = ("system",)
"""Keys that a recipe has only from its own file: what extends a system is another one."""


@dataclass
class Document:
    """A recipe as written: what all arms share, and what each changes."""

    shared: Node
    arms: dict[str, Node] = field(default_factory=dict[str, Node])
    problems: list[Problem] = field(default_factory=list[Problem])
    starts: dict[str, Any] = field(default_factory=dict[str, Any])
    """The bases and models that its arms start from, by path, once they have been read."""
    league: League | None = None
    """What the arms are that its `league:` section stands for."""

    def arm(self, name: str) -> Node:
        """The whole recipe of one arm."""
        return merge(self.shared, self.arms[name])


def read_recipe(
    path: Path | str,
    overrides: Iterable[str] = (),
    *,
    prepare: Callable[[Document], None] | None = None,
) -> Document:
    """The document of a recipe file, `extends` followed, `key=value` overrides on top.

    `prepare` changes what the file says before that. An override changes what all arms share;
    `arms.NAME.key=value` changes one arm. Problems that do not stop the reading are in
    `.problems`. Raises UserError where a file cannot be read.
    """
    document = Document(Node({}, Mark(str(path))))
    chain = chain_of(Path(path))
    *above, own = chain
    for node in above:
        kept = {key: child for key, child in node.value.items() if key not in OWN}
        _add(document, Node(kept, node.mark))
    _add(document, own)
    if prepare is not None:
        prepare(document)
    problems: list[Problem] = []
    turned: list[Node] = []
    for text in overrides:
        try:
            turned.append(parse_override(text))
        except UserError as error:
            problems += error.problems
    of_arms = [node for node in turned if next(iter(node.value)).startswith("arms.")]
    for node in turned:
        if node not in of_arms:
            _add(document, node)
    _add_league(document, chain)
    for node in of_arms:
        _add(document, node)
    document.problems += problems
    return document


def _add_league(document: Document, chain: list[Node]) -> None:
    """The arms that a `league:` section stands for, below those that are written."""
    section = document.shared.value.get("league")
    if section is None:
        return
    from eramv_lab.recipe.league_arms import expanded

    found = expanded(section, chain, document.problems)
    if not found:
        return
    document.league, arms, plugins = found
    written = document.arms
    document.arms = {
        name: merge(node, written[name]) if name in written else node for name, node in arms.items()
    }
    document.arms |= {name: node for name, node in written.items() if name not in arms}
    if plugins:
        own = document.shared.value.get("plugins")
        names = [
            n
            for p in [*([own] if own else []), *plugins]
            for n in (p.value if isinstance(p.value, list) else [p])
        ]
        document.shared.value["plugins"] = Node(names, plugins[0].mark)


def parse_override(text: str) -> Node:
    """The tree of `dotted.key=value`; the value is YAML and may hold further `=`."""
    key, equals, value = text.partition("=")
    if not (equals and key.strip()) or " " in key.strip():
        message = f"expected key=value, found {text!r}"
        raise UserError(Problem(message=message, file=COMMAND_LINE))
    if not value.strip():
        message = "no value after '='; write none for none"
        raise UserError(Problem(message=message, file=COMMAND_LINE, key=key))
    if key.strip() == "extends":
        message = "what a recipe extends is said in its file"
        raise UserError(Problem(message=message, file=COMMAND_LINE, key="extends"))
    try:
        node = read_text(value, COMMAND_LINE, line=None)
    except UserError as error:
        raise UserError(replace(p, key=key) for p in error.problems) from None
    return Node({key.strip(): node}, Mark(COMMAND_LINE))


def chain_of(path: Path) -> list[Node]:
    """The file and all that it extends, the farthest first. Raises UserError."""
    nodes: list[Node] = []
    seen: list[Path] = []
    asked: Mark | None = None  # where the file was asked for
    while True:
        shown = _shown(path)
        if path.resolve() in seen:
            message = f"{shown} extends itself, by way of {len(seen)} file(s)"
            raise UserError(_problem(asked or Mark(shown), "extends", message))
        seen.append(path.resolve())
        node = read_file(path, shown, asked)
        nodes.append(node)
        extends = node.value.get("extends")
        if extends is None or extends.value in (None, "none"):
            return nodes[::-1]
        if not isinstance(extends.value, str):
            message = f"expected the path of a recipe, found {to_data(extends)!r}"
            raise UserError(_problem(extends.mark, "extends", message))
        asked, path = extends.mark, path.parent / extends.value


def _shown(path: Path) -> str:
    return os.path.normpath(path)


def _add(document: Document, node: Node) -> None:
    """Write one file (or override) over what the document holds."""
    keys: dict[str, Node] = {}
    whole: dict[str, Node] = {}
    for key, child in node.value.items():
        if key == "arms" or key.startswith("arms."):
            _add_arms(document, key, child)
        elif key in WHOLE:
            whole[key] = child
        elif key != "extends":
            keys[key] = child
    unfolded = expand(Node(keys, node.mark), document.problems)
    shared = merge(document.shared, unfolded).value | whole
    document.shared = Node(shared, node.mark)


def _add_arms(document: Document, key: str, node: Node) -> None:
    if key == "arms":
        arms: Any = node.value
    else:
        _, name, *rest = key.split(".", 2)
        if node.mark.file == COMMAND_LINE and name not in document.arms:
            names = document.arms
            message = f"there is no arm {name!r}"
            document.problems.append(replace(choice(message, name, names, key), file=COMMAND_LINE))
            return
        arms = {name: Node({rest[0]: node}, node.mark) if rest else node}
    if arms is None:
        return
    if not isinstance(arms, dict):
        document.problems.append(_problem(node.mark, "arms", "expected arms by name"))
        return
    for name, delta in arms.items():
        if delta.value == "none":
            document.arms.pop(name, None)
            continue
        changes = Node({}, delta.mark) if delta.value is None else delta
        if not changes.is_map:
            message = f"expected the keys that this arm changes, found {to_data(delta)!r}"
            document.problems.append(_problem(delta.mark, f"arms.{name}", message))
            continue
        unfolded = expand(changes, document.problems)
        document.arms[name] = merge(document.arms.get(name), unfolded)


def refused(tree: Node, path: Path | str, key: str, message: str) -> UserError:
    """That the recipe at `path` cannot be used so, because of `key`, which it has written or
    extends: the file that was asked for is named, and where another one has the key, that too.
    """
    asked, mark = _shown(Path(path)), find(tree, key)
    if mark.file != asked:
        where = mark.file if mark.line is None else f"{mark.file}:{mark.line}"
        return UserError(Problem(message=f"{message} ({where})", file=asked, key=key))
    return UserError(Problem(message=message, file=asked, line=mark.line, key=key))


def interpolated(node: Node, problems: list[Problem]) -> dict[str, Any]:
    """The tree as plain data, `${other.key}` replaced by what stands there."""
    data = to_data(node)
    if "${" not in str(data):
        return data
    try:
        plain = OmegaConf.to_container(OmegaConf.create(data), resolve=True)
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        message = str(error.msg or error).split("\n", 1)[0]
        problems.append(_problem(find(node, key), key, message))
        return data
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def _problem(mark: Mark, key: str, message: str) -> Problem:
    return Problem(message=message, file=mark.file, line=mark.line, key=key or None)
