"""The model card: what a released model is, how well it answers, what it costs, how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eramv_lab.evaluate.statistics import Estimate
from eramv_lab.export.files import without_paths
from eramv_lab.report.comparison import ArmResult
from eramv_lab.report.numbers import digits, heading, share
from eramv_lab.report.runs import Run
from eramv_lab.report.table import tokens

EXAMPLE = "example.png"
PRICES = ("prefill_tflops", "train_pflops", "parameters", "trainable", "kv_mib")
MEASURED = ("latency_ms", "peak_mib")
PACKAGES = ("eramv_lab", "torch", "transformers", "peft", "safetensors")
"""Those whose version may change what the model says."""
SLOTS = {
    "vision": "what looks at the image",
    "anchors": "which patches enter the sequence",
    "connector": "how vision width becomes language width",
    "fine": "what the band can read",
    "band": "which layers read it, and how",
    "bridge": "what happens to it first",
    "sharing": "whose projections the band uses",
    "reducer": "what leaves the sequence",
    "language": "who answers",
    "prompt": "order, template, positions",
}
WORLD = """\
It knows one small made world and nothing else: scenes of coloured shapes with digits in them, the
questions that the world's grammar asks (its few dozen words; any other word is an error), answers
of one word. It is there to study where and how vision enters a language model, to start fits from,
and to try the tools on. It is not for photographs, talk, counting, or any decision about people or
things, and its accuracy says nothing of other data. It always answers, also where a question has
no answer in the image, and its confidence was never calibrated."""
OTHER = """\
Its accuracy holds for the data above and says nothing of other data. It may be wrong with
confidence, also where a question has no answer in the image, and carries the faults of the data
and of the pretrained parts that it was made from. It was made to compare architectures; whoever
uses it for anything else has to measure it there."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A held-out question about example.png, and the answer that the model gave, which is right."""

    question: str
    answer: str


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
    files: Mapping[str, str]
    """sha256 of every other file by name."""

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """The resolved recipe, without paths of this machine."""
        return without_paths(self.run.result.get("recipe") or {})

    def text(self) -> str:
        """The card: YAML by the hub's conventions, then Markdown."""
        parts = (
            ("", self._head()),
            ("What it is", self._slots()),
            ("How well it answers", self._accuracy()),
            ("What it costs", self._cost()),
            ("How to use it", self._use()),
            ("The adapter", self._adapter()),
            ("Data", self._data()),
            ("How it was made", self._made()),
            ("Limits, and what it is not for", [WORLD if self._is_world else OTHER]),
            ("Files", self._files()),
        )
        blocks = [f"---\n{self.metadata()}\n---"]
        for title, lines in parts:
            body = "\n".join(lines)
            if body:
                blocks.append(f"## {title}\n\n{body}" if title else f"# {self.name}\n\n{body}")
        return "\n\n".join(blocks) + "\n"

    def metadata(self) -> str:
        """The YAML front matter, `model-index` included."""
        from huggingface_hub import EvalResult, ModelCardData

        def result(name: str, found: Estimate) -> EvalResult:
            return EvalResult(
                task_type="image-text-to-text",
                task_name="Visual question answering",
                dataset_type=f"eramv_lab/{self._source}",
                dataset_name="the made world" if self._is_world else self._source,
                dataset_split=self._split,
                metric_type="accuracy",
                metric_name=name,
                metric_value=round(found.mean, 4),
                metric_args={"low": round(found.low, 4), "high": round(found.high, 4), "n": found.n},
            )

        parts = self._pretrained
        data = ModelCardData(
            language="en",
            license="other" if parts else "apache-2.0",
            license_name="that-of-its-parts" if parts else None,
            base_model=parts or None,
            library_name="transformers",
            pipeline_tag="image-text-to-text",
            tags=["eramv", "vision-language", "eramv_lab", *(["synthetic"] * self._is_world)],
            metrics=["accuracy"],
            model_name=self.name,
            eval_results=[result(name, found) for name, found in self._rates()],
        )
        return data.to_yaml()

    # --- what the parts say

    def _head(self) -> list[str]:
        row, name = self.run.row, "the made world" if self._is_world else f"`{self._source}` data"
        layers = self._slot("band").get("layers")
        band = (
            f" and all the fine features in layers {', '.join(map(str, layers))} of its language "
            "model" if layers else ""
        )  # fmt: skip
        return [
            f"An eRAM-V model of {row['parameters']:,.0f} parameters that answers questions about "
            f"images of {name}. It reads {row['visual_tokens']:g} visual tokens in its "
            f"sequence{band}. On held-out questions it is right in "
            f"{share(self._all.mean)} of them (95 % interval {_interval(self._all)}, "
            f"n = {self._all.n:,})."
        ]

    def _slots(self) -> list[str]:
        """A line for each slot, as the recipe fills it."""
        model = self.recipe.get("model") or {}
        rows = [
            (f"`{slot}`", meaning, _filled(model.get(slot, "none")))
            for slot, meaning in SLOTS.items()
        ]
        return _table(("slot", "the question", "filled by"), rows)

    def _accuracy(self) -> list[str]:
        rows = [
            (name, share(found.mean), _interval(found), f"{found.n:,}")
            for name, found in self._rates()
        ]
        evaluate = self.recipe.get("evaluate") or {}
        told = ", ".join(f"seed {seed}: {share(value)}" for seed, value in self.seeds.items())
        one = len(self.seeds) == 1
        return [
            *_table(("questions", "accuracy", "95 % interval", "n"), rows, numbers=3),
            "",
            f"Greedy generation of at most {evaluate.get('max_new_tokens')} tokens on the split "
            f"`{self._split}` ({self._all.clusters:,} images that it has not learnt from); right is "
            "what matches the expected words and ends. The intervals cover which questions were "
            "drawn, clustered by image, and not how training varies over seeds"
            + ("." if one else f" ({told})."),
            f"These weights are those of seed {self.run.seed}" + ", the only one trained." * one
            + "." * (not one),
        ]

    def _cost(self) -> list[str]:
        row, cost = self.run.row, self.run.result.get("cost") or {}
        timed = self.run.result.get("measured") or {}
        numbers = [(name, row.get(name)) for name in (*PRICES, *MEASURED)]
        cells = [("visual tokens", tokens(row))]
        for name, value in numbers:
            title, scale = heading(name, [value])
            cells.append((title, digits(None if value is None else value * scale)))
        return [
            *_table([head for head, _ in cells], [[cell for _, cell in cells]], numbers=len(cells)),
            "",
            f"Prefill FLOPs are of the whole model for one image and {cost.get('text_tokens')} text "
            "tokens (1 multiply-add = 2 FLOPs), training FLOPs of this fit without its base; KV is "
            "the cache behind the prefill, fine features included, at 2 bytes a value. Latency "
            f"(median of {timed.get('runs')} prefills) and peak memory are measured on "
            f"`{timed.get('device')}` in {timed.get('dtype')}, batch {timed.get('batch')}, inside "
            "the fit, beside whatever else the machine did: good to a factor, no more.",
        ]

    def _use(self) -> list[str]:
        tries = self.example
        image = EXAMPLE if tries else "photo.jpg"
        question = tries.question if tries else "what is in the picture"
        said = f"  # {tries.answer}" if tries else ""
        longest = (self.recipe.get("evaluate") or {}).get("max_new_tokens", 2)
        return [
            "In this folder, with `eramv_lab` installed:",
            "",
            "```python",
            "from PIL import Image",
            "from transformers import AutoModelForImageTextToText, AutoProcessor",
            "",
            "import eramv_lab.model  # tells transformers of the model",
            "",
            'model = AutoModelForImageTextToText.from_pretrained(".")',
            'processor = AutoProcessor.from_pretrained(".")',
            f'text = processor.write("{question}")',
            f'inputs = processor(images=Image.open("{image}"), text=text)',
            f"tokens = model.generate(**inputs, max_new_tokens={longest})",
            'answer = tokens[0, inputs["input_ids"].shape[1] :]',
            f"print(processor.decode(answer, skip_special_tokens=True)){said}",
            "```",
        ]

    def _adapter(self) -> list[str]:
        if not any(name.startswith("adapter/") for name in self.files):
            return []
        start = self.run.result.get("start") or {}
        where = next((str(value) for value in start.values()), "the model that it started from")
        return [
            "`adapter/` holds what LoRA learnt, and the parts trained whole beside it, relative to "
            f"`{where.rstrip('/').rpartition('/')[2]}`; the weights of this folder have it merged "
            "in. `PeftModel.from_pretrained(start_model, \"adapter\")` loads it onto that model.",
        ]

    def _data(self) -> list[str]:
        data = self.recipe.get("data") or {}
        result = self.run.result.get("data") or {}
        source = data.get(self._source) or {}
        left = sum(len(result.get(kind) or []) for kind in ("skipped", "broken"))
        sizes = ", ".join(f"{source[k]:,} {k}" for k in ("train", "val", "test") if k in source)
        return [
            f"Type `{self._source}`"
            + (f", {sizes} images with {source.get('questions')} questions each" * bool(sizes))
            + f"; settings in `recipe.yaml`, hash `{self._data_hash()}`. "
            + ("Drawn by the program from those settings: no person and no photograph is in it, "
               "and no dataset of the hub. " if self._is_world else "")
            + (f"{left} samples were left out as broken." if left else "No sample was left out."),
        ]  # fmt: skip

    def _made(self) -> list[str]:
        result, base = self.run.result, self.recipe.get("base") or {}
        versions = result.get("versions") or {}
        commit = (result.get("git") or {}).get("commit")
        told = ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)
        lines = [f"Arm `{self.run.arm}`, seed {self.run.seed}, recipe `{result.get('hash')}`"]
        lines[0] += f", program at commit `{commit[:10]}`" if commit else ""
        lines[0] += f", in {self.run.row.get('seconds', 0):,.0f} s; {told}."
        if self.command:
            lines = ["", "    " + self.command, "", *lines]
            lines = [
                "By this line in a checkout of `eramv_lab`; `recipe.yaml` in this folder is the same "
                "recipe, resolved"
                + (", and `base.yaml` that of the base that it starts from:"
                   if base.get("recipe") else ":"),
                *lines,
            ]  # fmt: skip
            lines.append(
                "The same versions on the same kind of processor with one thread give the same "
                "bytes; others agree within the interval."
            )
        elif base.get("recipe") or base.get("arm"):
            what = f"arm {base['arm']!r}" if base.get("arm") not in (None, "none") else "the base"
            lines.append(f"It started from the weights of {what}, which are not in this folder.")
        return lines

    def _files(self) -> list[str]:
        rows = [(f"`{name}`", f"`{sha}`") for name, sha in self.files.items()]
        rest = "`files.json` tells them again, and that of this page."
        return [*_table(("file", "sha256"), rows), "", rest]

    # --- what they are made of

    @property
    def _source(self) -> str:
        return str((self.recipe.get("data") or {}).get("type", "data"))

    @property
    def _is_world(self) -> bool:
        return self._source == "world"

    @property
    def _split(self) -> str:
        return str((self.recipe.get("evaluate") or {}).get("split", "test"))

    @property
    def _all(self) -> Estimate:
        assert self.scored.accuracy is not None  # the run has finished
        return self.scored.accuracy

    def _rates(self) -> Iterator[tuple[str, Estimate]]:
        yield "all", self._all
        yield from sorted(self.scored.per_type.items())

    def _slot(self, name: str) -> Mapping[str, Any]:
        value = (self.recipe.get("model") or {}).get(name)
        return value if isinstance(value, Mapping) else {}

    @property
    def _pretrained(self) -> list[str]:
        """Pretrained parts by hub id, or the last part of their folder."""
        paths = (self._slot(slot).get("path") for slot in ("vision", "language"))
        return [str(path) for path in paths if path not in (None, "none")]

    def _data_hash(self) -> str:
        """That of the made world's folder; of other data, of its settings."""
        from eramv_lab.recipe.base import digest
        from eramv_lab.recipe.schema import parse_data

        section = self.recipe.get("data") or {}
        if self._is_world and (data := parse_data(section, [])) is not None:
            from eramv_lab.data.make import folder_of

            return folder_of(data.world).name
        return digest(section.get(self._source))


def _interval(found: Estimate) -> str:
    return f"{share(found.low)} to {share(found.high)}"


def _filled(value: Any) -> str:
    """What fills a slot: its type and keys, as a recipe writes them."""
    if isinstance(value, list):
        return ", ".join(map(_filled, value))
    if not isinstance(value, Mapping):
        return f"`{value}`"
    keys = ", ".join(f"{k} {_short(v)}" for k, v in value.items() if k != "type")
    return f"`{value.get('type', 'none')}`" + (f": {keys}" if keys else "")


def _short(value: Any) -> str:
    """A value of a key; another model's whole config is in config.json."""
    if isinstance(value, Mapping):
        return str(value.get("model_type", "..."))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> list[str]:
    """A Markdown table; its last `numbers` columns are aligned to the right."""
    words = len(head) - numbers
    rule = ["---"] * words + ["--:"] * numbers
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
