"""The house rules: set-up, lock, licence, docstrings, and the one direction that imports run in."""

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "eramv_lab"
OURS = {"eramv_lab", "tests", "conftest"}
LONGEST = 320  # lines of a package file
UNLOCKED = {"torch", "ray", "bitsandbytes", "lmms-eval"}  # chosen at set-up; left to who wants it

LAYERS = (
    ("__init__", "hook", "errors", "files", "registry", "shapes"),
    ("recipe",),
    ("slots",),
    ("model",),
    ("cost", "data"),
    ("evaluate", "track"),
    ("report",),
    ("train",),
    ("analyse", "sweep"),
    ("export", "talk", "integrations"),
    ("cli_args", "cli_cost", "cli_data", "cli_models", "cli_talk", "cli"),
    ("__main__",),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

TRAINING = {"lightning", "pytorch_lightning", "mlflow", "optuna"}
NEVER = {  # libraries that a part imports nowhere, not even inside a function
    "__init__": {"torch", "transformers"} | TRAINING,
    "hook": {"torch", "transformers"} | TRAINING,
    "errors": {"torch", "transformers"} | TRAINING,
    "files": {"torch", "transformers"} | TRAINING,
    "registry": {"torch", "transformers"} | TRAINING,
    "shapes": {"torch", "transformers"} | TRAINING,
    "recipe": {"torch", "transformers"} | TRAINING,
    "report": {"torch", "transformers"} | TRAINING,
    "slots": TRAINING,
    "model": TRAINING,
    "train": {"optuna"},
}


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def python_files() -> list[Path]:
    return package_files() + sorted((ROOT / "tests").rglob("*.py"))


def part_of(file: Path) -> str:
    """The first name below the package: `slots` for eramv_lab/slots/anchors/topk.py."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in `file`, at any level, relative ones made absolute."""
    package = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def imported_parts(file: Path) -> Iterator[tuple[int, str]]:
    """(line, part) of every import of this package in `file`; other names count as `__init__`."""
    for line, name in imports(file):
        top, _, rest = name.partition(".")
        if top == PACKAGE.name:
            part = rest.partition(".")[0]
            yield line, part if part in RANK else "__init__"


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for, extras included."""
    project = pyproject()["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for line in itertools.chain.from_iterable(lists)]


def lock() -> str:
    return (ROOT / "requirements.lock").read_text()


# --- imports


def test_every_part_has_its_place_in_the_order():
    assert {part_of(file) for file in package_files()} <= RANK.keys()


def test_imports_run_one_way():
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {part_of(file)} imports {part}"
        for file in package_files()
        for line, part in imported_parts(file)
        if RANK[part] > RANK[part_of(file)]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", NEVER)
def test_libraries_stay_where_they_belong(part):
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in package_files()
        if part_of(file) == part
        for line, name in imports(file)
        if name.partition(".")[0] in NEVER[part]
    ]
    assert not wrong, "\n".join(wrong)


# --- files


@pytest.mark.parametrize("file", python_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_file_says_its_idea_and_stays_short(file):
    text = file.read_text()
    idea = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    assert idea.endswith((".", "?")), "the first line of the docstring says what the file is for"
    if PACKAGE in file.parents:
        assert len(text.splitlines()) <= LONGEST


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert pyproject()["project"]["license"] == "Apache-2.0"


# --- set-up


def test_requirements_parse():
    assert "dev" in pyproject()["project"]["optional-dependencies"]
    assert len(requirements()) > 10


def test_every_imported_library_is_declared():
    declared = {canonicalize_name(requirement.name) for requirement in requirements()}
    installed = packages_distributions()
    ours = OURS | {found.stem for found in (ROOT / "tests").iterdir()}
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in python_files()
        for line, name in imports(file)
        if (top := name.partition(".")[0]) not in ours | sys.stdlib_module_names
        and not declared & {canonicalize_name(found) for found in installed.get(top, [top])}
    ]
    assert not wrong, "\n".join(wrong)


def test_lock_pins_every_direct_dependency_but_some():
    pins = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock(), re.M)
    }
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        if name in UNLOCKED:
            continue
        assert name in pins, f"{name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]}: make lock"


def test_lock_leaves_torch_to_set_up_and_names_no_host():
    assert not re.search(r"^(torch==|triton|nvidia|cuda)", lock(), re.M)
    for number, line in enumerate(lock().splitlines(), 1):
        pin = r"[\w.-]+==[\w.!+]+( ; [^\\]+)? \\"
        assert re.fullmatch(rf"#.*|{pin}|    --hash=sha256:[0-9a-f]{{64}}( \\)?", line), number
        assert "://" not in line, number


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_every_target():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    plain = {"PATH": os.environ["PATH"]}  # without the flags of a `make test` around this test
    shown = subprocess.run(
        ["make", "-C", ROOT], text=True, capture_output=True, check=True, env=plain
    ).stdout
    assert {"setup", "fit", "test", "test-all", "lint", "lock", "help"} <= set(targets)
    for target in targets:
        assert re.search(rf"^  make {target} +\S", shown, re.M), target


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert re.search(r"^make test$", script.read_text(), re.M)
