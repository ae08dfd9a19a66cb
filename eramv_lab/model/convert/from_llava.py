"""From a LLaVA checkpoint to a model of ours: its tensors under our names, new parts at rest."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eramv_lab.errors import Problem, UserError
from eramv_lab.files import new_folder
from eramv_lab.model.configuration import EramvConfig
from eramv_lab.model.convert.checkpoint import Checkpoint, open_checkpoint
from eramv_lab.model.convert.names import USELESS, our_name, their_name
from eramv_lab.model.convert.processors import has_chat, llava_processor, our_processor
from eramv_lab.model.convert.sections import Section, lay_over
from eramv_lab.model.convert.weights import SHARD, Planned, Weights, write_shards
from eramv_lab.model.guard import some
from eramv_lab.model.parts import build_band, build_part

if TYPE_CHECKING:
    from eramv_lab.model.modeling import EramvForConditionalGeneration

EMBEDDING = "language_model.embed_tokens.weight"


def convert_llava(
    source: str | Path,
    out: Path,
    section: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    shard: str | int = SHARD,
) -> list[str]:
    """Write a model folder on the weights of a LLaVA checkpoint; what is to be told comes back.

    Args:
        source: folder or hub id of a `LlavaForConditionalGeneration` in safetensors.
        out: the folder to write, a new one.
        section: slots that differ from LLaVA's, as `model:` of a recipe has them (`arm_section`
            reads them of one); vision and language may be left out, else their sizes must agree.
        seed: of the weights that are new.
        shard: largest file to write; memory holds one of them at a time.

    New parts start so that the model answers as the checkpoint would with the same anchors: the
    bridge passes the features on, and a band whose gate is not given has `tanh`, closed. Where
    the section opens the band from the first step, the message says so. Tensors keep their dtype;
    new ones have that of the language model. Raises UserError.
    """
    checkpoint = open_checkpoint(source)
    theirs = llava_processor(checkpoint)
    chosen = _section(checkpoint, section or {}, theirs)
    model, planned = _plan(checkpoint, chosen, seed)
    ours = theirs and our_processor(theirs, chosen.spec, model.config.image_token_id)
    with new_folder(out) as fresh:
        model.config.save_pretrained(fresh)
        model.generation_config.save_pretrained(fresh)
        write_shards(fresh, planned, shard)
        if ours is not None:
            ours.save_pretrained(fresh)
    told = [*chosen.notes, *filter(None, [chosen.warning])]
    if ours is None:
        told.append(f"{checkpoint.name} has no processor, so {out} has none")
    return told


def from_llava(source: Any, *, seed: int = 0, **slots: Any) -> EramvForConditionalGeneration:
    """The model of `convert_llava` in memory; `source` may be a `LlavaForConditionalGeneration`.

    `slots` are as in a recipe: names or mappings. Warns where the model does not begin as the
    checkpoint's anchors-only model. Raises UserError.
    """
    from eramv_lab.model.modeling import EramvForConditionalGeneration

    checkpoint = open_checkpoint(source)
    processor = llava_processor(checkpoint)
    chosen = _section(checkpoint, slots, processor)
    if chosen.warning:
        warnings.warn(chosen.warning, stacklevel=3)
    model, planned = _plan(checkpoint, chosen, seed)
    own = checkpoint.folder is None  # then the tensors are another model's
    tensors = {name: read().clone() if own else read() for name, (_, read) in planned.items()}
    made = EramvForConditionalGeneration.from_pretrained(
        None, config=model.config, state_dict=tensors, dtype=model.config.dtype
    )
    made.generation_config = model.generation_config
    return made


def _section(checkpoint: Checkpoint, slots: Mapping[str, Any], processor: Any) -> Section:
    return lay_over(checkpoint.slots, slots, "chat" if has_chat(processor) else "vicuna")


def _plan(checkpoint: Checkpoint, chosen: Section, seed: int) -> tuple[Any, Planned]:
    """The model without its weights, and where each of them comes from."""
    from eramv_lab.model.modeling import EramvForConditionalGeneration

    weights = checkpoint.weights
    theirs = {our_name(name): name for name in weights.entries}
    theirs = {ours: name for ours, name in theirs.items() if not USELESS.search(ours)}
    config = EramvConfig.from_spec(
        chosen.spec, init_seed=seed, image_token_id=checkpoint.config.image_token_index
    )
    if EMBEDDING in theirs:
        config.dtype = weights.entries[theirs[EMBEDDING]].dtype
    with torch.device("meta"):
        model = EramvForConditionalGeneration(config)
    generation = checkpoint.generation
    never = {*(generation.suppress_tokens or ()), config.image_token_id}
    generation.suppress_tokens = sorted(never)  # a placeholder is never an answer
    model.generation_config = generation
    wanted = model.state_dict()
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight")
        theirs.pop("lm_head.weight", None)
    new = {name for name in wanted if _is_new(name)}
    _refuse_unlike(checkpoint, theirs, {k: v for k, v in wanted.items() if k not in new})
    fresh = _Fresh(model, seed, weights, theirs)
    planned: dict[str, Any] = {}
    for name, shape in wanted.items():
        if name in new:
            planned[name] = shape.to(config.dtype), lambda name=name: fresh.read(name)
        else:
            dtype = weights.entries[theirs[name]].dtype
            planned[name] = shape.to(dtype), lambda name=theirs[name]: weights.read(name)
    return model, planned


def _is_new(name: str) -> bool:
    """Whether a LLaVA has no such tensor."""
    parts = ("shared_bridge.", "connector.skip.", "fine_connector.")
    return ".band." in name or name.startswith(parts)


def _refuse_unlike(
    checkpoint: Checkpoint, theirs: Mapping[str, str], wanted: Mapping[str, Tensor]
) -> None:
    """Raise UserError with all tensors that are missing, of another shape, or without a place."""
    entries, where = checkpoint.weights.entries, checkpoint.name
    problems: list[Problem] = []
    missing = [name for name in wanted if name not in theirs]
    if missing:
        problems.append(
            Problem(message=f"lacks {some(sorted(map(their_name, missing)))}", file=where)
        )
    for name, shape in wanted.items():
        entry = entries[theirs[name]] if name in theirs else None
        if entry is not None and entry.shape != tuple(shape.shape):
            message = (
                f"{theirs[name]} is {list(entry.shape)}, its config.json says {list(shape.shape)}"
            )
            problems.append(Problem(message=message, file=entry.place))
    extra = [theirs[name] for name in theirs if name not in wanted]
    if extra:
        message = f"holds tensors that its config.json knows nothing of: {some(sorted(extra))}"
        problems.append(Problem(message=message, file=where))
    if problems:
        raise UserError(problems)


class _Fresh:
    """The tensors that are new, made one part at a time: a band layer starts from its layer."""

    def __init__(self, model: Any, seed: int, weights: Weights, theirs: Mapping[str, str]) -> None:
        self.model, self.seed, self.weights, self.theirs = model, seed, weights, theirs
        self.part, self.made = "", {}

    @torch.no_grad()
    def read(self, name: str) -> Tensor:
        part = name.partition(".band.")[0] if ".band." in name else name.partition(".")[0]
        if part != self.part:
            self.part = part
            self.made = {k: v.to(self.model.config.dtype) for k, v in self._make(part).items()}
        return self.made[name]

    def _make(self, part: str) -> dict[str, Tensor]:
        spec = self.model.spec
        if part == "shared_bridge":
            bridge = build_part("bridge", spec.bridge, spec.dims(), self.seed, "bridge")
            self._start(bridge)
            return _named(bridge, part)
        if part == "fine_connector":
            fine = build_part("connector", spec.fine_connector, spec.dims(), self.seed, part)
            return _named(fine, part)
        if part == "connector":  # its straight way beside the two matrices adds nothing at first
            return {"connector.skip.weight": torch.zeros(self.model.connector.skip.weight.shape)}
        index = int(part.rpartition(".")[2])
        layer, band = self.model.language_model.layers[index], build_band(spec, self.seed, index)
        state = {
            name: self.weights.read(self.theirs[f"{part}.{name}"])
            for name in layer.state_dict()
            if f"{part}.{name}" in self.theirs
        }
        layer.load_state_dict(state, strict=False, assign=True)
        band.sharing.reset_from(layer)
        self._start(band.bridge)
        layer.to("meta")
        return _named(band, f"{part}.band")

    def _start(self, bridge: Any) -> None:
        """Start a bridge from the connector, where it begins as its copy."""
        if bridge is None or not self.model.spec.bridge.copies:
            return
        connector = copy.deepcopy(self.model.connector)
        names = [f"connector.{name}" for name in connector.state_dict()]
        own = {n: self.weights.read(self.theirs[n]) for n in names if n in self.theirs}
        state = {**self._make("connector"), **own} if len(own) < len(names) else own
        plain = {n.removeprefix("connector."): tensor for n, tensor in state.items()}
        connector.load_state_dict(plain, assign=True)
        bridge.reset_from(connector)


def _named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
