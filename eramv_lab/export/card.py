"""The model card: what a released model is, how well it answers, what it costs, how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from eramv_lab.evaluate.statistics import Estimate
from eramv_lab.export.files import ADAPTER, HASHES, START, without_paths
from eramv_lab.export.metadata import metadata
from eramv_lab.export.usage import Example, usage
from eramv_lab.registry import SLOTS
from eramv_lab.report.comparison import ArmResult
from eramv_lab.report.numbers import digits, heading, share
from eramv_lab.report.runs import Run
from eramv_lab.report.table import tokens

PRICES = ("prefill_tflops", "train_pflops", "parameters", "trainable", "kv_mib")
MEASURED = ("latency_ms", "peak_mib")
PACKAGES = ("eramv_lab", "torch", "transformers", "peft", "safetensors")
"""Those whose version may change what the model says."""
BAND = "which layers read the fine features, and how"
WORLD = """\
It knows one small made world and nothing else: scenes of coloured shapes with digits in them,
questions in the few dozen words of that world (any other word is an error), answers of one word. It
is there to study where and how vision enters a language model, to start fits from, and to try the
tools on. It is not for photographs, conversation, or any decision about people or things, and its
accuracy says nothing of other data. It answers also where a question has no answer in the image,
and its confidence was never calibrated."""
OTHER = """\
Its accuracy holds for the data below and says nothing of other data. It answers also where a
question has no answer in the image, its confidence was never calibrated, and it carries the faults
of its data and of the pretrained parts that it was made from. It was made to compare architectures;
whoever uses it for anything else has to measure it there."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card tells of a finished fit."""

    name: str
    run: Run
    scored: ArmResult
    seeds: Mapping[int, float]
    """Accuracy of each finished seed of the arm, this run's among them."""
    command: str = ""
    """The line that reproduces it; empty where its recipe does not read back to it."""
    example: Example | None = None
    standalone: bool = False
    """Whether the folder holds the code that runs it."""
    files: Mapping[str, str]
    """sha256 of every other file by name."""

    def text(self) -> str:
        """The card: YAML by the hub's conventions, then Markdown."""
        parts = {
            "What it is": self._slots(),
            "How well it answers": self._accuracy(),
            "What it costs": self._cost(),
            "How to use it": usage(self.example, self._longest, standalone=self.standalone),
            "The adapter": self._adapter(),
            "Limits, and what it is not for": [WORLD if self._is_world else OTHER],
            "Data": self._data(),
            "How it was made": self._made(),
            "Files": self._files(),
        }
        head = metadata(self.name, self.recipe, self._rates())
        blocks = [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
            f"# {self.name}",
            self._head(),
        ]
        blocks += ["\n".join([f"## {title}", "", *part]) for title, part in parts.items() if part]
        return "\n\n".join(blocks) + "\n"

    # --- what the parts say

    def _head(self) -> str:
        row, layers = self.run.row, self._of("model", "band").get("layers")
        what = "the made world" if self._is_world else f"`{self._source}` data"
        band = f", and all the fine features in layers {layers} of its language model"
        return (
            f"A vision-language model of {row['parameters']:,.0f} parameters that answers "
            f"questions about images of {what}. It reads {row['visual_tokens']:g} visual tokens in "
            f"its sequence{band * bool(layers)}. On held-out questions it is right in "
            f"{share(self._all.mean)} of them (95 % interval {_interval(self._all)}, "
            f"n = {self._all.n:,})."
        )

    def _slots(self) -> list[str]:
        """A line for each slot, as the recipe fills it."""
        rows = [
            (f"`{slot}`", SLOTS[slot].question if slot in SLOTS else BAND, _filled(value))
            for slot, value in self._of("model").items()
        ]
        return _table(("slot", "the question", "filled by"), rows)

    def _accuracy(self) -> list[str]:
        rows = [
            (name, share(found.mean), _interval(found), f"{found.n:,}")
            for name, found in self._rates()
        ]
        for name, rate in (self.run.result.get("also") or {}).items():
            between = f"{share(rate['low'])} to {share(rate['high'])}"
            cells = share(rate["accuracy"]), between, f"{rate['n']:,}"
            rows.append((f"further set `{name}`", *cells))
        told = ", ".join(f"seed {seed}: {share(value)}" for seed, value in self.seeds.items())
        return [
            *_table(("questions", "accuracy", "95 % interval", "n"), rows, numbers=3),
            "",
            f"Greedy generation of at most {self._longest} tokens on the split "
            f"`{self._of('evaluate').get('split')}` ({self._all.clusters:,} images that it has not "
            "learnt from); right is what matches the expected words and ends. The intervals cover "
            "which questions were drawn, clustered by image, and not how training varies over "
            f"seeds. Finished seeds: {told}; these weights are those of seed {self.run.seed}.",
        ]

    def _cost(self) -> list[str]:
        row, cost = self.run.row, self.run.result.get("cost") or {}
        timed = self.run.result.get("measured") or {}
        heads, cells = ["visual tokens"], [tokens(row)]
        for name in (*PRICES, *MEASURED):
            value = row.get(name)
            title, scale = heading(name, [value])
            heads.append(title)
            cells.append(digits(None if value is None else value * scale))
        return [
            *_table(heads, [cells], numbers=len(heads)),
            "",
            "Prefill FLOPs are of the whole model for one image and "
            f"{cost.get('text_tokens')} text tokens (1 multiply-add = 2 FLOPs), training FLOPs of "
            "this fit without its base; KV is the cache behind the prefill, fine features "
            "included, at 2 bytes a value. Latency "
            f"(median of {timed.get('runs')} prefills) and peak memory are measured on "
            f"`{timed.get('device')}` in {timed.get('dtype')}, batch {timed.get('batch')}, inside "
            "the fit, beside whatever else the machine did: good to a factor, no more.",
        ]

    def _adapter(self) -> list[str]:
        if not any(name.startswith(f"{ADAPTER}/") for name in self.files):
            return []
        told = without_paths(self.run.result.get("adapter") or {}).get("start")
        where = f"`{told}`" if told else "the model that it started from"
        where += ", which is in this folder too" * any(
            f.startswith(f"{START}/") for f in self.files
        )
        return [
            f"`{ADAPTER}/` holds what LoRA learnt, and the parts trained whole beside it, relative "
            f"to {where}; the weights of this folder have it merged in. "
            f'`PeftModel.from_pretrained(start_model, "{ADAPTER}")` puts it onto that model.'
        ]

    def _data(self) -> list[str]:
        told, source = self.run.result.get("data") or {}, self._of("data", self._source)
        left = sum(len(told.get(kind) or []) for kind in ("skipped", "broken"))
        sizes = ", ".join(f"{source[k]:,} {k}" for k in ("train", "val", "test") if k in source)
        drawn = (
            "Drawn by the program from these settings: no person, no photograph and no dataset of "
            "the hub is in it. "
        )
        return [
            f"Type `{self._source}`"
            + f", {sizes} images with {source.get('questions')} questions each" * bool(sizes)
            + f"; settings in `recipe.yaml`, hash `{self._data_hash()}`. {drawn * self._is_world}"
            + (f"{left} samples were left out as broken." if left else "No sample was left out.")
        ]

    def _made(self) -> list[str]:
        result, base = self.run.result, self._of("base")
        commit = str((result.get("git") or {}).get("commit") or "")[:10]
        versions = result.get("versions") or {}
        told = ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)
        which = f"Arm `{self.run.arm}`, seed {self.run.seed}, recipe `{result.get('hash')}`"
        which += f", program at commit `{commit}`" * bool(commit)
        which += f"; {told}. It took {self.run.row.get('seconds', 0):,.0f} s."
        if not self.command:
            started = [f"{k} `{v}`" for k, v in base.items() if k != "seed" and v != "none"]
            return [which, *(f"It started from {one}, which is not in here." for one in started)]
        given = base.get("recipe") not in (None, "none")
        return [
            "By this line in a checkout of `eramv_lab`; `recipe.yaml` in this folder is the same "
            f"recipe, resolved{', and `base.yaml` that of the base that it starts from' * given}:",
            "",
            f"    {self.command}",
            "",
            f"{which} The same versions on the same kind of processor give the same bytes"
            + " from the same base; one that is built anew with another number of threads differs "
            "in its last bits, and the model then by as much as another seed's."
            * given
            + "." * (not given),
        ]

    def _files(self) -> list[str]:
        rows = [(f"`{name}`", f"`{sha}`") for name, sha in self.files.items()]
        rest = f"`{HASHES}` tells them again, with that of this page."
        return [*_table(("file", "sha256"), rows), "", rest]

    # --- what they are made of

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """The resolved recipe, without paths of this machine."""
        return without_paths(self.run.result.get("recipe") or {})

    def _of(self, *keys: str) -> Mapping[str, Any]:
        """The section of the recipe below `keys`, empty where there is none."""
        found: Any = self.recipe
        for key in keys:
            found = found.get(key)
            if not isinstance(found, Mapping):
                return {}
        return found

    @property
    def _source(self) -> str:
        return str(self._of("data").get("type", "data"))

    @property
    def _is_world(self) -> bool:
        return self._source == "world"

    @property
    def _longest(self) -> int:
        return int(self._of("evaluate").get("max_new_tokens", 2))

    @property
    def _all(self) -> Estimate:
        assert self.scored.accuracy is not None  # the run has finished
        return self.scored.accuracy

    def _rates(self) -> Iterator[tuple[str, Estimate]]:
        yield "all", self._all
        yield from sorted(self.scored.per_type.items())

    def _data_hash(self) -> str:
        """The name of the made world's folder; of other data, a hash of its settings."""
        from eramv_lab.data.make import folder_of
        from eramv_lab.recipe.base import digest
        from eramv_lab.recipe.schema import parse_data

        data = parse_data(self._of("data"), []) if self._is_world else None
        return folder_of(data.world).name if data else digest(self._of("data", self._source))


def _interval(found: Estimate) -> str:
    return f"{share(found.low)} to {share(found.high)}"


def _filled(value: Any) -> str:
    """What fills a slot: its type and keys, as a recipe writes them."""
    if isinstance(value, list):
        return ", ".join(map(_filled, value))
    if not isinstance(value, Mapping):
        return f"`{value}`"
    keys = ", ".join(f"{k} {_short(v)}" for k, v in value.items() if k != "type")
    return f"`{value.get('type', 'none')}`" + f": {keys}" * bool(keys)


def _short(value: Any) -> str:
    """A value of a key; the whole of another model's config is in config.json."""
    if isinstance(value, Mapping):
        return str(value.get("model_type", "..."))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> list[str]:
    """A Markdown table; its last `numbers` columns are aligned to the right."""
    rule = ["---"] * (len(head) - numbers) + ["--:"] * numbers
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
