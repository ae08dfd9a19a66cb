"""Law 8: the fine features are a set: their order says nothing, their positions go with them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from laws.whole import BANDED, SYSTEMS, model_of, said, sample, shared


class Shuffled:
    """A `fine` component whose rows come in another order, the same for every image."""

    def __init__(self, fine: Any) -> None:
        self.fine = fine

    def __call__(self, *args: Any) -> Tensor:
        rows_NM = self.fine(*args)
        order = torch.randperm(rows_NM.shape[1], generator=torch.Generator().manual_seed(1))
        return rows_NM[:, order]


@pytest.mark.parametrize("name", BANDED)
def test_the_order_of_the_fine_features_says_nothing(name: str, monkeypatch: pytest.MonkeyPatch):
    model = shared(name)
    samples = [sample(model, 6, (0, 1)), sample(model, 8, (2,)), sample(model, 4, ())]
    expected = torch.cat(said(model, samples))
    monkeypatch.setattr(model, "fine", Shuffled(model.fine))
    torch.testing.assert_close(torch.cat(said(model, samples)), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["vica", "saisa"])
def test_positions_are_read_where_there_are_any(name: str):
    """With grid positions another assignment of places to features is another input."""
    model = model_of(SYSTEMS[name])
    samples = [sample(model, 6)]
    expected = torch.cat(said(model, samples))
    original = model.language_model.rotary_emb.forward

    def moved(states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        if positions.shape[1] == model.dims.fine:  # the fine features', not the rows'
            positions = positions.flip(1)
        return original(states, positions)

    model.language_model.rotary_emb.forward = moved
    changed = float((torch.cat(said(model, samples)) - expected).abs().max())
    assert changed > 1e-3 if name == "vica" else changed < 1e-5
