"""From images to what the decoder takes: anchors for the sequence, memory for the band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eramv_lab.model.layout import Layout
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.slots.contracts import Memory, Patches


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was made of the images, before it is known where they stand."""

    visual_NAD: Tensor | None
    """Rows for the sequence; None: no anchors."""
    index_NA: Tensor | None
    """Patch of each anchor, -1 for none."""
    fine_NMD: Tensor | None
    """Fine features (in vision width for a bridge that takes them so); None: no band."""
    fine_NM: Tensor | None
    """Patch of each fine feature, -1 for CLS."""


def look(
    patches: Patches, spec: ModelSpec, selector: Any, connector: nn.Module, fine: Any
) -> Sight:
    """Select, connect and gather: every tower row passes the connector once at most."""
    chosen = None if selector is None else selector(patches)
    if fine is None:
        visual = None if chosen is None else connector(chosen.states_NAV)
        index = None if chosen is None else chosen.index_NA
        return Sight(visual_NAD=visual, index_NA=index, fine_NMD=None, fine_NM=None)
    index_NA = None if chosen is None else chosen.index_NA
    images, device = patches.states_NPV.shape[0], patches.states_NPV.device
    anchors: Any = spec.anchors
    picks = anchors is not None and anchors.picks
    fine_NM = fine(index_NA if picks else None, images, device)  # 0 is CLS, p + 1 is patch p
    in_vision = spec.bridge is not None and spec.bridge.input == "vision"
    with_cls = spec.fine.cls or (anchors is not None and picks and anchors.takes_cls)
    shift = 0 if with_cls else 1
    table_NRV = patches.states_NPV
    if with_cls:
        assert patches.cls_NV is not None
        table_NRV = torch.cat([patches.cls_NV[:, None], table_NRV], dim=1)
    if in_vision:
        visual = None if chosen is None else connector(chosen.states_NAV)
        fine_NMD = _gather(table_NRV, fine_NM - shift)
    elif chosen is not None and not picks:
        both = connector(torch.cat([_gather(table_NRV, fine_NM - shift), chosen.states_NAV], dim=1))
        fine_NMD, visual = both.split([fine_NM.shape[1], both.shape[1] - fine_NM.shape[1]], dim=1)
    else:
        table_NRD = connector(table_NRV)
        fine_NMD = _gather(table_NRD, fine_NM - shift)
        visual = None if index_NA is None else _gather(table_NRD, index_NA + 1 - shift)
    return Sight(visual_NAD=visual, index_NA=index_NA, fine_NMD=fine_NMD, fine_NM=fine_NM - 1)


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
