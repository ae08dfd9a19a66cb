"""Who a parameter belongs to, and so whether an arm trains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from torch import nn

from eramv_lab.errors import Problem, UserError, nearest

Role: TypeAlias = Literal["vision", "connector", "language", "bridge", "band"]

ROLES: tuple[Role, ...] = ("vision", "connector", "language", "bridge", "band")
HALVES = ("lora_A", "lora_B")
"""Modules of the two matrices of a low-rank difference, as peft names them."""

OWNERS: dict[str, Role] = {
    "vision_tower": "vision",
    "selector": "connector",
    "fine": "connector",
    "connector": "connector",
    "fine_connector": "connector",
    "language_model": "language",
    "lm_head": "language",
}
"""Role by the attribute of the model that holds a parameter."""


def role_of(name: str) -> Role:
    """The role of the parameter called `name` in the composed model.

    A band layer's own projections, norms and gates are `band`, what it does to the fine features
    first is `bridge`; all else of the decoder, embedding and head is `language`. Names that
    peft gives are known too. Raises ValueError for a name of no known part.
    """
    parts = name.removeprefix("base_model.").removeprefix("model.").split(".")
    if "bridge" in parts or "shared_bridge" in parts:
        return "bridge"
    if "band" in parts or parts[0] in ("bands", "fusion"):
        return "band"
    if parts[0] not in OWNERS:
        raise ValueError(f"no role for the parameter {name!r}")
    return OWNERS[parts[0]]


def is_difference(name: str) -> bool:
    """Whether a parameter is half of a low-rank difference (`train.lora` puts them in)."""
    parts = name.split(".")
    return len(parts) > 2 and parts[-3] in HALVES


def set_trainable(
    model: nn.Module, roles: Mapping[str, Any]
) -> list[tuple[str, Role, nn.Parameter]]:
    """Let the `full` roles learn, of those with `{lora: ...}` the differences that the model has,
    freeze the others; the (name, role, parameter) that learn.

    A role that is not named is frozen. Raises UserError for an unknown role or treatment and where
    nothing is left to learn, ValueError where one tensor stands under two roles that differ.
    """
    problems = [
        Problem(
            message=f"there is no role {role!r}",
            key=f"train.roles.{role}",
            allowed=ROLES,
            nearest=nearest(role, ROLES),
        )
        for role in roles
        if role not in ROLES
    ]
    problems += [
        Problem(message=f"found {how!r}", key=f"train.roles.{role}", allowed=("full", "frozen"))
        for role, how in roles.items()
        if how not in ("full", "frozen") and not isinstance(how, Mapping)
    ]
    if problems:
        raise UserError(problems)
    asked: dict[int, bool] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        role = role_of(name)
        how = roles.get(role)
        learns = is_difference(name) if isinstance(how, Mapping) else how == "full"
        if asked.setdefault(id(parameter), learns) != learns:
            raise ValueError(f"{name} is one tensor under two roles, one of them frozen")
        parameter.requires_grad_(learns)
    learning: list[tuple[str, Role, nn.Parameter]] = [
        (name, role_of(name), p) for name, p in model.named_parameters() if p.requires_grad
    ]
    if not learning:
        raise UserError(Problem(message="nothing is left to learn", key="train.roles"))
    return learning


def counts(model: nn.Module) -> dict[Role, tuple[int, int]]:
    """Parameters of each role that is there: (all, trainable).

    Low-rank differences learn, and are none of the model's own, into which they are merged.
    """
    found: dict[Role, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        role = role_of(name)
        total, trained = found.get(role, (0, 0))
        size = parameter.numel()
        own = 0 if is_difference(name) else size
        found[role] = (total + own, trained + size * parameter.requires_grad)
    return {role: found[role] for role in ROLES if role in found}


def table(counted: Mapping[Role, tuple[int, int]]) -> str:
    """The counts as text: one line a role."""
    rows = [("role", "parameters", "trainable")]
    rows += [(role, f"{total:,}", f"{trained:,}") for role, (total, trained) in counted.items()]
    total, trained = (sum(c[i] for c in counted.values()) for i in (0, 1))
    rows.append(("all", f"{total:,}", f"{trained:,}"))
    return "\n".join(f"{a:<10}{b:>14}{c:>14}" for a, b, c in rows)
