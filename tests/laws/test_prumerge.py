"""PruMerge and PruMerge+: what their recipes put into the sequence is the plain reading."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from laws.probes import draw
from laws.recipes import model_of_recipe, through, unchanged
from laws.test_equal_systems import same
from laws.test_step_systems import Scene
from laws.whole import IMAGE

NEAREST = 2
"""Of 36 patches, as 32 of 576."""
ADAPTS: dict[str, Any] = {"anchors.count": "none"}


def merged(seen: Any, n: int, best: int, even: int = 0) -> Tensor:
    """[K+1,V] rows of image n: the `best` by CLS's attention, best first, then `even` ones of the
    others at even steps, each with its nearest merged in; then the sum of all that are left out."""
    states_PV, keys_PV = seen.states_NPV[n], seen.logit_keys_NPV[n]
    weight_P = seen.cls_logits_NP[n].exp()
    kept = weight_P.argsort(descending=True)[:best].tolist()
    left = [p for p in range(len(weight_P)) if p not in kept]
    kept += [left[(2 * j + 1) * len(left) // (2 * even)] for j in range(even)]
    rows: list[Tensor] = []
    for p in kept:
        near_P = cosine_similarity(keys_PV[p], keys_PV, dim=1)
        near_P[p] = -torch.inf
        near = near_P.topk(NEAREST).indices
        rows.append(states_PV[p] + weight_P[near] @ states_PV[near])
    out = [p for p in range(len(weight_P)) if p not in kept]
    return torch.stack([*rows, weight_P[out] @ states_PV[out]])


@pytest.mark.parametrize(
    ("name", "best", "even"), [("prumerge", 2, 0), ("prumerge_plus", 5, 4)], ids=["plain", "plus"]
)
@torch.no_grad()
def test_a_recipe_is_its_plain_reading(name: str, best: int, even: int):
    """2 and 9 of 36 patches, as 32 and 144 of 576."""
    model = model_of_recipe(name)
    scene = Scene(model)
    rows_NAV = torch.stack([merged(scene.seen, n, best, even) for n in range(2)])
    scene.rows_SD[scene.ids_S == IMAGE] = model.connector(rows_NAV).flatten(0, 1)
    same(model(**scene.batch).logits[0], through(model, scene.rows_SD, scene.place_S, unchanged))


@torch.no_grad()
def test_count_none_keeps_what_stands_out():
    """Above Q3 + 1.5 IQR of each image's own attention."""
    model = model_of_recipe("prumerge", **ADAPTS)
    seen = model.see(draw(6, 3, 48, 48), None)
    sight, counts = model.look(seen), set[int]()
    for n in range(6):
        weight_P = seen.cls_logits_NP[n].exp().numpy()
        q1, q3 = np.percentile(weight_P, [25, 75])
        best = max(1, int((weight_P > q3 + 1.5 * (q3 - q1)).sum()))
        counts.add(best)
        same(sight.visual_NAD[n, sight.mask_NA[n]], model.connector(merged(seen, n, best)))
    assert len(counts) > 1
