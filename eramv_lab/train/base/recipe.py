"""The recipe of a base, typed: its world, tower, language model, phases and optimisers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from eramv_lab.data.world.config import WorldConfig
from eramv_lab.data.world.vocabulary import SHAPES
from eramv_lab.errors import Problem, UserError, nearest
from eramv_lab.recipe.parse import LATER, parse_config
from eramv_lab.slots.connectors.mlp import MlpConnectorConfig
from eramv_lab.slots.vision.tiny import TinyVisionConfig


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe:
    """Shape and start of the tiny Llama."""

    width: int = 96
    """D."""
    layers: int = 6
    """Decoder layers."""
    heads: int = 3
    """Query heads."""
    kv_heads: int = 3
    """Key and value heads."""
    head_dim: int = 32
    """Width of a head."""
    ffn: int = 256
    """Width inside the feed-forward."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    rms_norm_eps: float = 1e-6
    """Added to the mean square in every norm."""
    align_qk: float = 0.5
    """Correlation of the key projection with the query projection at the start."""
    align_vo: float = 0.6
    """Share of the transposed value projection in the output projection at the start."""


@dataclass(frozen=True, kw_only=True)
class FitRecipe:
    """Optimisers and schedule of the language model's training, one over all phases."""

    muon: float = 0.02
    """Learning rate of the matrices (Muon)."""
    adamw: float = 1e-3
    """Learning rate of embeddings, norms and biases (AdamW)."""
    weight_decay: float = 0.0
    """Weight decay of the matrices."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    warmup: int = 40
    """Steps over which the rate rises."""
    decay_from: float = 0.6
    """Share of all steps after which the rate falls, linearly."""
    last: float = 0.1
    """Rate at the last step, as a share."""
    eos_weight: float = 0.1
    """Weight of the end of the sentence beside the answer word."""


@dataclass(frozen=True, kw_only=True)
class TowerRecipe:
    """How long and how fast the tower is trained."""

    steps: int = 1500
    """Steps, each on scenes never seen before."""
    batch: int = 32
    """Images a step."""
    muon: float = 0.01
    """Learning rate of the matrices of the transformer layers (Muon)."""
    adamw: float = 2e-3
    """Learning rate of everything else (AdamW)."""
    cls_weight: float = 1.0
    """Weight of the CLS loss beside that of the patches."""


@dataclass(frozen=True, kw_only=True)
class PhaseRecipe:
    """One stretch of the language model's training."""

    steps: int
    """Steps."""
    batch: int
    """Images a step, `world.questions` questions each."""
    objects: tuple[int, int]
    """Fewest and most objects that an image shows."""
    patches: tuple[int, int] = (2, 3)
    """Fewest and most patches of each of these objects."""
    background: tuple[int, int] = (0, 8)
    """Fewest and most patches that show nothing."""
    blocked: tuple[int, int] = (0, 0)
    """Fewest and most first layers in which text rows cannot see visual rows, drawn per step."""
    blocked_last: tuple[int, int] = (0, 0)
    """The same of the last layers; both together leave text rows a window of layers to look in."""
    looking: float = field(default=1.0, metadata=LATER)
    """Chance of each of the other layers that text rows can see visual rows in it, drawn per step
    (one always can): below 1 every layer has to be able to look, and none may count on it."""
    all_tokens: float = 0.0
    """Share of the steps that show every patch and every object."""


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """Everything that makes a base but its seed."""

    world: WorldConfig
    vision: TinyVisionConfig
    connector: MlpConnectorConfig
    language: LanguageRecipe
    tower: TowerRecipe
    fit: FitRecipe
    phases: list[PhaseRecipe]
    scenes: int
    """Scenes whose tower states the language model learns from."""
    held_out: int
    """Scenes that measure the base."""


_SECTIONS: dict[str, type[Any]] = {
    "world": WorldConfig,
    "vision": TinyVisionConfig,
    "connector": MlpConnectorConfig,
    "language": LanguageRecipe,
    "tower": TowerRecipe,
    "fit": FitRecipe,
}


_TYPES = {"vision": "tiny", "connector": "mlp2x_gelu"}
_ABOUT = ("kind", "question", "expect")


def parse_base(recipe: Mapping[str, Any]) -> BaseRecipe:
    """The typed recipe. Raises UserError with every problem found."""
    problems: list[Problem] = []
    allowed = (*_SECTIONS, "phases", "scenes", "held_out", *_ABOUT)
    problems += [
        Problem(message="unknown key", key=key, allowed=allowed, nearest=nearest(key, allowed))
        for key in recipe
        if key not in allowed
    ]
    parts: dict[str, Any] = {}
    for key, config in _SECTIONS.items():
        section = dict(recipe.get(key, {}))
        if key in _TYPES and section.pop("type", _TYPES[key]) != _TYPES[key]:
            problems.append(
                Problem(message="cannot be trained in a base", key=key, allowed=(_TYPES[key],))
            )
        parts[key] = parse_config(config, section, key, problems)
    phases = [
        parse_config(PhaseRecipe, phase, f"phases.{number}", problems)
        for number, phase in enumerate(recipe.get("phases", []))
    ]
    parts["phases"] = [phase for phase in phases if phase is not None]
    for key, default in (("scenes", 10000), ("held_out", 300)):
        parts[key] = recipe.get(key, default)
        if not isinstance(parts[key], int) or parts[key] < 1:
            problems.append(Problem(message=f"found {parts[key]!r}, must be at least 1", key=key))
    if not phases:
        problems.append(Problem(message="a base needs at least one phase", key="phases"))
    if parts["world"] is not None:
        problems += [Problem(message=text, key="world") for text in parts["world"].check()]
    if not problems:
        problems += _cross_check(**parts)
    if problems:
        raise UserError(problems)
    return BaseRecipe(**parts)


def _cross_check(
    *,
    world: WorldConfig,
    vision: TinyVisionConfig,
    language: LanguageRecipe,
    phases: list[PhaseRecipe],
    **_: Any,
) -> Iterator[Problem]:
    if unknown := [name for name in world.shapes if name not in SHAPES]:
        message = f"a base is taught the six shapes, found {', '.join(unknown)}"
        yield Problem(message=message, key="world.shapes", allowed=SHAPES)
    if vision.image != world.size:
        yield Problem(message=f"is {vision.image}, the world's is {world.size}", key="vision.image")
    for number, phase in enumerate(phases):
        key = f"phases.{number}"
        if phase.blocked[1] + phase.blocked_last[1] >= language.layers:
            yield Problem(
                message=f"blocked and blocked_last leave none of {language.layers} layers", key=key
            )
        for name in ("objects", "patches", "background", "blocked", "blocked_last"):
            low, high = getattr(phase, name)
            if not (2 if name == "objects" else 0) <= low <= high:
                yield Problem(message=f"found {low} to {high}, must rise", key=f"{key}.{name}")
        if not 0 <= phase.looking <= 1:
            yield Problem(
                message=f"found {phase.looking}, must lie within 0 and 1", key=f"{key}.looking"
            )
        if phase.steps < 0 or phase.batch < 1:
            yield Problem(message="steps must be at least 0 and batch at least 1", key=key)
