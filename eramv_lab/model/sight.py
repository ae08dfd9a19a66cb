"""From images to what the decoder takes: anchors for the sequence, memory for the band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eramv_lab.model.layout import Layout
from eramv_lab.recipe.connecting import projects, shares, with_cls
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.slots.contracts import Anchors, Memory, Patches, Question, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was made of the images, before it is known where they stand."""

    visual_NAD: Tensor | None
    """Rows for the sequence; None: no anchors."""
    index_NA: Tensor | None
    """Patch of each of these rows, -1 for none."""
    fine_NMD: Tensor | None
    """Fine features (in vision width for a bridge that takes them so); None: no band."""
    fine_NM: Tensor | None
    """Patch of each fine feature, -1 for CLS and for a row that a connector made."""
    mask_NA: Tensor | None = None
    """True where a row of `visual_NAD` is real; None: all are."""


def look(
    patches: Patches,
    spec: ModelSpec,
    selector: Any,
    connector: Any,
    fine: Any,
    fine_connector: Any = None,
    question: Question | None = None,
) -> Sight:
    """Select, connect and gather: every tower row passes the connector once at most.

    Raises ValueError where a connector reads the question and none is given.
    """
    if spec.reads_question and question is None:
        raise ValueError(
            "the connector reads the question: give question_ids and question_mask, as the "
            "processor writes them"
        )
    shift = 0 if with_cls(spec) else 1  # row of a table in which 0 may be CLS
    shared = shares(spec)
    picks = spec.anchors is not None and spec.anchors.picks
    table_NRD: Tensor | None = None
    if projects(spec) or (shared and (picks or selector is None)):
        table_NRD = connector(_table(patches, not shift))
    if projects(spec) and table_NRD is not None:
        patches = replace(patches, projected_NPD=table_NRD[:, 1 - shift :])
    chosen = None if selector is None else selector(patches)
    fine_NM = fine_NMD = None  # of its rows, 0 is CLS and p + 1 is patch p
    if fine is not None:
        taken = chosen.index_NA if picks and chosen is not None else None
        fine_NM = fine(taken, patches.states_NPV.shape[0], patches.states_NPV.device)
        if table_NRD is not None and shared:
            fine_NMD = _gather(table_NRD, fine_NM - shift)
        else:
            fine_NMD = _gather(_table(patches, spec.fine.cls), fine_NM - 1 + int(spec.fine.cls))
    tokens = None
    if chosen is None:
        pass
    elif spec.connector is not None and not spec.connector.per_token:
        tokens = _whole(connector, spec.connector, chosen, patches, question)
    elif table_NRD is not None and picks:
        visual_NAD = _gather(table_NRD, chosen.index_NA + 1 - shift)
        tokens = Tokens(states_NAD=visual_NAD, index_NA=chosen.index_NA, mask_NA=chosen.mask_NA)
    else:
        rows_NRV = chosen.states_NAV
        if fine_NMD is not None and shared and table_NRD is None:
            # rows made of several patches, and the fine features, in one call
            both_NRD = connector(torch.cat([fine_NMD, rows_NRV], dim=1))
            fine_NMD, visual_NAD = both_NRD.tensor_split([fine_NMD.shape[1]], dim=1)
        else:
            visual_NAD = connector(rows_NRV)
        tokens = Tokens(states_NAD=visual_NAD, index_NA=chosen.index_NA, mask_NA=chosen.mask_NA)
    if fine_NM is not None:
        fine_NM = fine_NM - 1
        if fine_connector is not None:
            own = spec.fine_connector
            if own.per_token:
                fine_NMD = fine_connector(fine_NMD)
            else:
                assert fine_NMD is not None
                given = Anchors(states_NAV=fine_NMD, index_NA=fine_NM)
                made = _whole(fine_connector, own, given, patches, question)
                fine_NMD, fine_NM = made.states_NAD, made.index_NA
    mask_NA = None if tokens is None else tokens.mask_NA
    if mask_NA is not None and mask_NA.device.type == "meta":
        mask_NA = None  # a price is that of the most rows
    return Sight(
        visual_NAD=None if tokens is None else tokens.states_NAD,
        index_NA=None if tokens is None else tokens.index_NA,
        fine_NMD=fine_NMD,
        fine_NM=fine_NM,
        mask_NA=mask_NA,
    )


def _whole(
    connector: Any, config: Any, given: Anchors, patches: Patches, question: Question | None
) -> Tokens:
    """The rows of a connector that looks at several rows at once."""
    return connector(given, patches, question=question if config.reads_question else None)


def _table(patches: Patches, cls: bool) -> Tensor:
    """Rows of the tower, CLS first where it is asked for."""
    if not cls:
        return patches.states_NPV
    assert patches.cls_NV is not None
    return torch.cat([patches.cls_NV[:, None], patches.states_NPV], dim=1)


def asked(
    question_ids: Tensor | None, question_mask: Tensor | None, counts: Sequence[int]
) -> Question | None:
    """The question of each image, from those of the samples, [B,T]; None where none is given."""
    if question_ids is None:
        return None
    if question_mask is None:
        question_mask = torch.ones_like(question_ids)
    if any(count != 1 for count in counts):
        owners = [sample for sample, count in enumerate(counts) for _ in range(count)]
        of_images = torch.tensor(owners, device=question_ids.device)
        question_ids, question_mask = question_ids[of_images], question_mask[of_images]
    return Question(ids_BT=question_ids, mask_BT=question_mask.bool())


def _gather(rows_NRD: Tensor, index_NK: Tensor) -> Tensor:
    return rows_NRD.gather(1, index_NK[..., None].expand(-1, -1, rows_NRD.shape[2]))


def remember(sight: Sight, layout: Layout, counts: Sequence[int], spec: ModelSpec) -> Memory | None:
    """The fine features as each sample sees them: its images one after another, padded."""
    if sight.fine_NMD is None or sight.fine_NM is None:
        return None
    most, batch, each = max(counts), len(counts), sight.fine_NMD.shape[1]
    device = sight.fine_NMD.device
    image_BM = torch.arange(1, most + 1, device=device).repeat_interleave(each).expand(batch, -1)
    if all(count == most for count in counts):
        states_BMD = sight.fine_NMD.reshape(batch, most * each, -1)
        patch_BM = sight.fine_NM.reshape(batch, most * each)
        mask_BM = None
    else:
        have_BI = torch.tensor(
            [[i < count for i in range(most)] for count in counts], device=device
        )
        spread = have_BI.long().flatten().cumsum(0) - 1  # images are in order of their samples
        spread = spread.clamp(min=0)
        states_BMD = sight.fine_NMD[spread].reshape(batch, most * each, -1)
        patch_BM = sight.fine_NM[spread].reshape(batch, most * each)
        mask_BM = have_BI.repeat_interleave(each, dim=1)
    return Memory(
        states_BMD=states_BMD,
        mask_BM=mask_BM,
        positions_BM=_positions(patch_BM, image_BM, layout, spec),
        image_BM=image_BM,
    )


def _positions(
    patch_BM: Tensor, image_BM: Tensor, layout: Layout, spec: ModelSpec
) -> Tensor | None:
    if spec.fusion is None or spec.fusion.positions == "none":
        return None
    start_BM = layout.starts_BI.gather(1, image_BM - 1)
    if spec.fusion.positions == "one":
        return start_BM
    cls = int(spec.anchors is not None and spec.anchors.takes_cls)
    return start_BM + (patch_BM + cls).clamp(min=0)
