"""What a fusion `add` adds to the rows of the input, layer by layer."""

from __future__ import annotations

from torch import Tensor

from eramv_lab.model.layout import Layout
from eramv_lab.model.sight import Sight
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.slots.fusion.add import slices


def additions(sight: Sight | None, layout: Layout, spec: ModelSpec) -> dict[int, Tensor]:
    """[B,T,D] to be added before each layer: zero where a row is no anchor; none without `add`."""
    if sight is None or sight.fine_NMD is None or spec.readers:
        return {}
    assert sight.fine_NM is not None
    order_NP = sight.fine_NM.argsort(dim=1)  # every patch is there once
    fine_NPD = sight.fine_NMD.gather(1, order_NP[..., None].expand_as(sight.fine_NMD))
    dims, visual_BT1 = spec.dims(), layout.visual_BT[..., None]
    nothing_BTD = fine_NPD.new_zeros(*layout.visual_BT.shape, fine_NPD.shape[2])
    return {
        layer: nothing_BTD.masked_scatter(visual_BT1, fine_NPD[:, patches])
        for layer, patches in zip(spec.band, slices(dims.vision, dims.visual), strict=True)
    }
