"""LoRA: which matrices of which layers learn a low-rank difference, and what cannot be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.parse import choice, parse_config

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec
    from eramv_lab.shapes import Projection

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PARTS = {"vision": "vision_tower", "language": "language_model"}
"""The part of the model that has the layers, by role."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A low-rank difference beside matrices that stay as they are."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Inner width of each difference."""
    alpha: Positive = 16.0
    """The differences are scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of the differences while they learn."""
    targets: tuple[Literal["q", "k", "v", "o", "gate", "up", "down"], ...] = ("q", "k", "v", "o")
    """Matrices of a layer that have one."""
    layers: Literal["all", "band", "outside"] | tuple[Annotated[int, Field(ge=0)], ...] = "all"
    """Layers that have them: all, those of the band, those outside it, or a list."""
    lr: Positive | None = None
    """Peak learning rate of the differences, by AdamW; none: `train.lr`."""
    bits: Literal[4] | None = None
    """4: the decoder's matrices are kept in 4 bits while the differences learn (QLoRA; needs
    bitsandbytes and a CUDA device). What is saved and scored has whole matrices again."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A part that keeps its weights and learns differences of some of them."""

    lora: Lora
    """The differences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One low-rank difference: B A beside a matrix."""

    matrix: Projection
    rank: int

    @property
    def parameters(self) -> int:
        """Numbers in A and B."""
        return self.rank * (self.matrix.columns_in + self.matrix.columns_out)


Place = tuple[str, int, str]
"""Role, layer, and the matrix's name in `projections`."""


def plain_roles(roles: object) -> dict[str, Any]:
    """Treatment by role as a recipe writes it, of the typed section or of its plain form."""
    if is_dataclass(roles) and not isinstance(roles, type):
        return asdict(roles)
    return dict(roles)  # type: ignore[call-overload]


def adapted(roles: object) -> dict[str, Lora]:
    """The roles that learn by LoRA. Raises UserError for settings that are not sound."""
    found: dict[str, Lora] = {}
    for role, how in plain_roles(roles).items():
        if not isinstance(how, Mapping):
            continue
        problems: list[Problem] = []
        one = parse_config(Adapted, how, f"train.roles.{role}", problems)
        if one is None:
            raise UserError(problems)
        found[role] = one.lora
    return found


def bits_of(roles: object) -> int | None:
    """Bits of the frozen matrices of the language model, where they are not kept whole."""
    lora = adapted(roles).get("language")
    return lora.bits if lora else None


def layers_of(lora: Lora, role: str, spec: ModelSpec) -> tuple[int, ...]:
    """The layers that have differences, ascending."""
    dims = spec.dims()
    everywhere = range(dims.vision.layers if role == "vision" else dims.language.layers)
    if lora.layers == "band":
        return spec.band
    if lora.layers == "outside":
        return tuple(layer for layer in everywhere if layer not in spec.band)
    return tuple(everywhere) if lora.layers == "all" else tuple(sorted(lora.layers))


def matrices_of(role: str, spec: ModelSpec) -> dict[str, Projection]:
    """The matrices that a layer of the part has, by name; none where they are not known."""
    if role == "language":
        return spec.dims().language.projections()
    return getattr(spec.vision, "projections", dict)()


def differences(roles: object, spec: ModelSpec) -> dict[Place, Difference]:
    """Every low-rank difference that the roles ask for."""
    return {
        (role, layer, name): Difference(matrix=matrix, rank=lora.rank)
        for role, lora in adapted(roles).items()
        for layer in layers_of(lora, role, spec)
        for name, matrix in matrices_of(role, spec).items()
        if name in lora.targets or (name == "qkv" and "q" in lora.targets)
    }


def settled(roles: object, spec: ModelSpec) -> dict[str, Any]:
    """The roles with their layers as lists, which hold for the same model without its band too."""
    fixed = plain_roles(roles)
    for role, lora in adapted(roles).items():
        fixed[role] = {"lora": asdict(replace(lora, layers=layers_of(lora, role, spec)))}
    return fixed


def check_lora(roles: object, spec: ModelSpec, strategy: str = "auto") -> Iterator[Problem]:
    """Problems: layers or matrices that are not there, settings that cannot be together."""
    found = adapted(roles)
    for role, lora in found.items():
        key = f"train.roles.{role}.lora"
        yield from _check_layers(lora, role, spec, f"{key}.layers")
        yield from _check_targets(lora, role, spec, f"{key}.targets")
        if lora.bits and role != "language":
            yield Problem(message="only the language model is kept in 4 bits", key=f"{key}.bits")
        if lora.bits and strategy == "fsdp2":
            message = "matrices of 4 bits are not sharded; use another trainer.strategy"
            yield Problem(message=message, key=f"{key}.bits")
    if len({lora.dropout for lora in found.values()}) > 1:
        message = "one adapter has one dropout; write the same for vision and language"
        yield Problem(message=message, key="train.roles.vision.lora.dropout")


def _check_layers(lora: Lora, role: str, spec: ModelSpec, key: str) -> Iterator[Problem]:
    named = isinstance(lora.layers, str)
    if role == "vision" and named and lora.layers != "all":
        message = f"a tower has no band, found {lora.layers!r}"
        yield Problem(message=message, key=key, allowed=("all", "a list of layers"))
    elif lora.layers == "band" and not spec.band:
        yield Problem(message="there is no band whose layers could learn", key=key)
    elif not (layers := layers_of(lora, role, spec)):
        every = lora.layers == "outside"
        message = "every layer is the band's, none is outside" if every else "no layer is named"
        yield Problem(message=message, key=key)
    elif not named:
        depth = len(layers_of(replace(lora, layers="all"), role, spec))
        if len(set(layers)) < len(layers):
            yield Problem(message=f"a layer is there twice in {list(layers)}", key=key)
        if layers[-1] >= depth:
            message = f"there is no layer {layers[-1]}: {role} has {depth}, 0 to {depth - 1}"
            yield Problem(message=message, key=key)


def _check_targets(lora: Lora, role: str, spec: ModelSpec, key: str) -> Iterator[Problem]:
    there = matrices_of(role, spec)
    if not there:
        message = "the matrices of this tower are not known, so none can have a difference"
        yield Problem(message=message, key=key.removesuffix(".targets"))
        return
    names = [n for name in there for n in ("qkv" if name == "qkv" else (name,))]
    yield from (
        choice(f"the layers of {role} have no matrix {name!r}", name, names, key)
        for name in lora.targets
        if name not in names
    )
    if not lora.targets:
        yield Problem(message="no matrix is named", key=key, allowed=tuple(names))
    if len(set(lora.targets)) < len(lora.targets):
        yield Problem(message=f"a matrix is there twice in {list(lora.targets)}", key=key)
    if "qkv" in there and 0 < len({"q", "k", "v"} & set(lora.targets)) < 3:
        message = "this tower makes q, k and v with one matrix; name all three or none"
        yield Problem(message=message, key=key)
