"""The three code files of a standalone folder, written from our modules for one model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from eramv_lab import __version__
from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.export.sources import External, Key, Sources
from eramv_lab.model.guard import NEEDS
from eramv_lab.registry import SLOTS, Component

CONFIGURATION, MODELING, PROCESSING = (
    "configuration_eramv",
    "modeling_eramv",
    "processing_eramv",
)
BUILT = ("vision", "anchors", "connector", "fine", "fusion", "bridge", "sharing", "language")
"""Slots whose components have a module (or an index) to build."""
THERE = frozenset(
    "torch transformers numpy safetensors tokenizers huggingface_hub packaging peft".split()
)
"""Libraries that come with transformers, peft and torch."""
ORDER = (
    *("eramv_lab", "eramv_lab.errors", "eramv_lab.export.stand_ins", "eramv_lab.shapes"),
    *("eramv_lab.recipe", "eramv_lab.slots", "", "eramv_lab.model"),
)
"""Modules as they stand in a file; the empty one is a third party's."""
ABOUT = {
    CONFIGURATION: "EramvConfig: what fills each slot of this model.",
    MODELING: "EramvForConditionalGeneration: the model, with the components that its slots name.",
    PROCESSING: "EramvProcessor: questions and images to model inputs.",
}


def bundle(spec: Any) -> dict[str, str]:
    """Text by file name of the code that a model needs where eramv_lab is not.

    Every definition is our own source's, as it stands there; what only a recipe needs (checks,
    prices, pydantic) is left out. Raises UserError for a component of a third party that cannot
    stand alone.
    """
    used = components_of(spec)
    modules = {part.__module__ for c in used for part in (c.config, c.factory)}
    ours = {"eramv_lab", *(module.partition(".")[0] for module in modules)}
    sources = Sources(ours, ((c.slot.upper(), c.name) for c in used))
    tables = [f'SLOTS["{c.slot}"].configs["{c.name}"] = {{{c.config.__name__}}}' for c in used]
    roots: dict[str, list[Key]] = {
        CONFIGURATION: [
            ("eramv_lab.model.configuration", "EramvConfig"),
            ("eramv_lab.registry", "SLOTS"),
            *((c.config.__module__, c.config.__name__) for c in used),
        ],
        MODELING: [
            ("eramv_lab.model.modeling", "EramvForConditionalGeneration"),
            *((c.factory.__module__, c.factory.__name__) for c in used if c.slot in BUILT),
        ],
        PROCESSING: [("eramv_lab.model.processing", "EramvProcessor")],
    }
    try:
        writer = _Writer(sources)
        files = {name: writer.file(name, keys) for name, keys in roots.items()}
    except LabError as error:
        raise UserError(f"this model cannot stand alone: {error}") from None
    names = {c.config.__name__: writer.final[c.config.__module__, c.config.__name__] for c in used}
    lines = "\n".join(line.format(**names) for line in dict.fromkeys(tables))
    files[CONFIGURATION] += f"\n\n# --- the components of this model\n\n{lines}\n"
    return {f"{name}.py": text for name, text in files.items()}


def components_of(spec: Any) -> list[Component]:
    """The components that fill a model's slots."""
    configs = [(slot, getattr(spec, slot)) for slot in SLOTS if slot != "reducer"]
    configs += [("reducer", one) for one in spec.reducer]
    found = [SLOTS[slot].of(config) for slot, config in configs if config is not None]
    return list({(c.slot, c.name): c for c in found}.values())


class _Writer:
    """Puts definitions into files: each once, under a name of its own, above what needs it."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.final: dict[Key, str] = {}
        """Name of each definition that stands somewhere."""
        self.place: dict[Key, str] = {}
        """File of it."""
        self.taken: dict[str, Key | External] = {}

    def file(self, name: str, roots: Iterable[Key]) -> str:
        """The text of a file with everything that the roots need and no earlier file has."""
        needed, libraries = self.sources.closure(roots)
        for _, _, library in libraries:
            self._check_library(library, libraries)
        new = sorted(needed - self.place.keys(), key=self._rank)
        for key in new:
            self.final[key] = self._free(key[1], key)
            self.place[key] = name
        imports: dict[str, External] = {}
        borrowed: dict[str, set[str]] = {}
        texts: list[str] = []
        done: set[Key] = set()
        section = ""

        def write(key: Key) -> None:
            nonlocal section
            if key in done or self.place[key] != name:
                return
            done.add(key)
            source = self.sources.module(key[0])
            for local in sorted(source.needs_first(key[1])):
                meaning = self.sources.meaning((key[0], local))
                if not isinstance(meaning, External):
                    write(meaning)
            renamed: dict[str, str] = {}
            for local in sorted(source.needs(key[1])):
                meaning = self.sources.meaning((key[0], local))
                if isinstance(meaning, External):
                    final = self._free(local, meaning)
                    imports[final] = meaning
                else:
                    final = self.final[meaning]
                    if self.place[meaning] != name:
                        borrowed.setdefault(self.place[meaning], set()).add(final)
                if final != local:
                    if local in source.imports and self._free(local, (key[0], local)) == local:
                        texts.append(f"{local} = {final}")  # it has another name where it is used
                    else:
                        renamed[local] = final
            if self.final[key] != key[1]:
                renamed[key[1]] = self.final[key]
            if key[0] != section:
                texts.append(f"# --- {_shown(key[0])}")
            section = key[0]
            texts.append(source.text(key[1], renamed))

        for key in new:
            write(key)
        if name == CONFIGURATION:
            imports |= {"transformers": External("transformers", None)}
            imports |= {"Version": External("packaging.version", "Version")}
        parts = [_header(name, {key[0] for key in new}), _import_lines(imports, borrowed)]
        if name == CONFIGURATION:
            parts.append(CHECK)
        return "\n\n".join(part for part in parts if part) + "\n\n\n" + _joined(texts)

    def _free(self, name: str, meaning: Key | External) -> str:
        """A name that means this and nothing else."""
        for number in range(1, 100):
            candidate = name if number == 1 else f"{name}_{number}"
            if self.taken.setdefault(candidate, meaning) == meaning:
                return candidate
        raise LabError(f"too many things are called {name}")

    def _rank(self, key: Key) -> tuple[int, str, int]:
        module, name = key
        fits = [i for i, p in enumerate(ORDER) if p and (module == p or module.startswith(p + "."))]
        source = self.sources.module(module)
        return (max(fits, default=ORDER.index("")), module, source.statements[name].lineno)

    def _check_library(self, library: External, all_of_them: Any) -> None:
        top = library.module.partition(".")[0]
        if top in THERE or top in sys.stdlib_module_names:
            return
        where = next(module for module, _, found in all_of_them if found == library)
        file = self.sources.module(where).path
        problem = Problem(
            message=f"imports {top}, which a standalone folder cannot count on",
            file=str(file),
            allowed=tuple(sorted(THERE)),
        )
        raise UserError(problem)


CHECK = f'''\
if Version(transformers.__version__) < Version("{NEEDS}"):
    raise ImportError(
        f"this model needs transformers {NEEDS} or newer, found {{transformers.__version__}}: "
        "pip install --upgrade transformers"
    )'''


def _header(name: str, modules: set[str]) -> str:
    listed = ", ".join(sorted(map(_shown, modules)))
    return (
        f'"""{ABOUT[name]}\n\nGenerated by eramv_lab {__version__} (`export --standalone`) for this '
        "model alone, from\n"
        + _wrapped(listed)
        + '.\nDo not edit: change the sources and export again.\n"""\n\n'
        "# SPDX-License-Identifier: Apache-2.0\n\nfrom __future__ import annotations"
    )


def _shown(module: str) -> str:
    return module.replace(".", "/") + ".py" if module != "eramv_lab" else "eramv_lab/__init__.py"


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 96, break_long_words=False, break_on_hyphens=False)


def _import_lines(imports: Mapping[str, External], borrowed: Mapping[str, set[str]]) -> str:
    """Standard library, libraries, then the folder's other files; one line a module."""
    plain: list[tuple[str, str]] = []
    names: dict[str, list[str]] = {}
    for final, library in imports.items():
        if library.name is None:
            rest = "" if final == library.module else f" as {final}"
            plain.append((library.module, f"import {library.module}{rest}"))
        else:
            rest = "" if final == library.name else f" as {final}"
            names.setdefault(library.module, []).append(f"{library.name}{rest}")
    plain += [(m, _from(m, sorted(listed))) for m, listed in names.items()]
    groups: tuple[list[str], list[str]] = ([], [])
    for module, line in sorted(plain, key=lambda one: (one[1].startswith("from"), one[0])):
        groups[module.partition(".")[0] not in sys.stdlib_module_names].append(line)
    own = [_from(f".{file}", sorted(listed)) for file, listed in sorted(borrowed.items())]
    return "\n\n".join("\n".join(group) for group in (*groups, own) if group)


def _from(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 100:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _joined(texts: Iterable[str]) -> str:
    """Definitions two empty lines apart, constants none, one below a section's name."""
    out, before = "", ""
    for text in texts:
        kind = "constant"
        if text.startswith(("@", "class ", "def ", "#")):
            kind = "section" if text.startswith("# ---") else "definition"
        lines = {("section", "constant"): 2, ("constant", "constant"): 1}.get((before, kind), 3)
        out += "\n" * (lines if out else 0) + text
        before = kind
    return out + "\n"
