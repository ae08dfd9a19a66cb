"""Each reducer against a direct reading of its definition over transformers' own layers."""

from typing import Any

import pytest
import torch
from laws.settings import LANGUAGES, TINY, with_keys
from laws.whole import GRID, IMAGE, NO_BAND, inputs, model_of, said, sample
from torch import Tensor

FAMILIES = ("tiny", pytest.param("llama", marks=pytest.mark.slow), "qwen3")
PLAIN = {"anchors": "all", "prompt": "image_first", **NO_BAND}
HIDROP = [
    {"type": "late", "layer": 1, "exit": 3},
    {"type": "pyramiddrop", "layers": [2], "positions": "keep", "ratio": 0.4},
]
REDUCERS: dict[str, Any] = {
    "fastv": {"type": "fastv", "layer": 2, "ratio": 0.7},
    "fastv_mean": {"type": "fastv", "layer": 2, "ratio": 0.7, "by": "mean"},
    "vtw": {"type": "vtw", "layer": 2},
    "pyramiddrop": {"type": "pyramiddrop", "layers": [1, 2, 3], "ratio": 0.6},
    "pyramid_kept": {"type": "pyramiddrop", "layers": [1, 3], "positions": "keep"},
    "shortv": {"type": "shortv", "active": 1, "order": [0, 2, 3, 1]},
    "shortv_whole": {"type": "shortv", "active": 0},
    "late": {"type": "late", "layer": 2},
    "late_exit": {"type": "late", "layer": 1, "exit": 3},
    "shortv_fastv": [{"type": "shortv", "active": 2, "order": [1, 3]}, {"type": "fastv"}],
    "shortv_fastv_mean": [
        {"type": "shortv", "active": 2, "order": [1, 3]},
        {"type": "fastv", "by": "mean"},
    ],
    "hidrop": HIDROP,
    "next_mean": {"type": "drop", "layer": 0, "keep": 5, "rank": "next", "rankers": "mean"},
}


def model_with(reducer: Any, family: str = "tiny", **more: Any) -> Any:
    if family != "tiny":
        more["language"] = {"type": "hf", "config": LANGUAGES[family]}
    return model_of(with_keys(TINY, **PLAIN, reducer=reducer, **more))


class Direct:
    """One sample, written down as the papers do: slices, full maps, restored rows."""

    def __init__(self, model: Any, ids: tuple[int, ...], prompt: int) -> None:
        self.model, self.language = model, model.language_model
        self.end = prompt - 1
        one = torch.tensor([ids])
        self.visual = one[0] == IMAGE
        picture = inputs(model, [sample(model)])["pixel_values"]
        self.words = self.language.embed_tokens(one.masked_fill(one == IMAGE, 0))[0]
        self.hidden = self.words.clone()
        rows = model.connector(model.see(picture, None).states_NPV)[0]
        self.hidden[self.visual] = rows
        self.positions = torch.arange(len(ids))
        self.present = torch.arange(len(ids))
        self.mapped: Tensor | None = None
        self.kept: list[list[int]] = []

    def rope(self) -> Any:
        return self.language.rotary_emb(self.hidden[None], self.positions[None])

    def maps(self, layer: Any) -> Tensor:
        """Attention weights of a layer on the rows as they stand, the mean over heads."""
        rows = len(self.hidden)
        mask = torch.full((rows, rows), -torch.inf).triu(1)[None, None]
        normed = layer.input_layernorm(self.hidden[None])
        _, weights = layer.self_attn(
            hidden_states=normed, attention_mask=mask, position_embeddings=self.rope()
        )
        return weights[0].mean(0)

    def scores(self, event: Any, layer: Any, asking: Tensor) -> Tensor:
        place = self.present.tolist()
        if event.rank == "none":
            return -self.present.float()
        weights = self.maps(layer) if event.rank == "next" else self.mapped
        assert weights is not None
        if event.rankers == "mean":
            return weights[asking[self.present] & (self.present <= self.end)].mean(0)
        return weights[place.index(self.end)]

    def keep(self, rows: Tensor) -> None:
        self.hidden, self.positions = self.hidden[rows], self.positions[rows]
        self.present = self.present[rows]

    def run(self, events: Any) -> Tensor:
        """Final states of the rows that are left."""
        whole = self.hidden
        if any(event.kind == "inject" for event in events):
            self.hidden = self.words
            self.keep((~self.visual).nonzero()[:, 0])
        asking = torch.ones_like(self.visual)
        for i, layer in enumerate(self.language.layers):
            frozen = False
            for event in (e for e in events if e.layer == i):
                if event.kind == "inject":
                    together = whole.clone()
                    together[self.present] = self.hidden
                    self.hidden, self.present = together, torch.arange(len(whole))
                    self.positions = torch.arange(len(whole))
                elif event.kind == "freeze":
                    frozen = True
                else:
                    self.drop(event, layer, asking)
            self.mapped = self.maps(layer)
            asking = ~self.visual if frozen else torch.ones_like(self.visual)
            rows = len(self.hidden)
            mask = torch.full((rows, rows), -torch.inf).triu(1)[None, None]
            after = (
                type(layer)
                .__mro__[2]
                .forward(  # transformers' own class
                    layer, self.hidden[None], attention_mask=mask, position_embeddings=self.rope()
                )[0]
            )
            still = self.visual[self.present] & frozen
            self.hidden = torch.where(still[:, None], self.hidden, after)
        return self.language.norm(self.hidden)

    def drop(self, event: Any, layer: Any, asking: Tensor) -> None:
        scores = self.scores(event, layer, asking)
        visual = self.visual[self.present]
        best = scores.masked_fill(~visual, -torch.inf).argsort(descending=True, stable=True)
        keep = ~visual
        keep[best[: min(event.keep, int(visual.sum()))]] = True
        self.keep(keep.nonzero()[:, 0])
        self.kept.append(self.present[self.visual[self.present]].tolist())
        if event.positions == "repack":
            self.positions = torch.arange(len(self.present))


def rows_kept(model: Any, batch: dict[str, Any]) -> list[list[int]]:
    """Visual rows of the input that are left after each removal, as the model goes."""
    from eramv_lab.model import decoder

    found: list[list[int]] = []
    original = decoder.drop

    def watched(rows: Any, event: Any, scores: Any) -> bool:
        changed = original(rows, event, scores)
        found.append(rows.rows_BS[rows.visual_BS].tolist())
        return changed

    decoder.drop = watched
    try:
        with torch.no_grad():
            model(**batch)
    finally:
        decoder.drop = original
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", REDUCERS)
@torch.no_grad()
def test_a_direct_reading_of_the_definition(name: str, family: str):
    model = model_with(REDUCERS[name], family)
    one = sample(model, 6)
    batch = inputs(model, [one])
    found, kept = model(**batch).logits[0], rows_kept(model, batch)
    model.set_attn_implementation("eager")
    direct = Direct(model, one.ids, one.prompt)
    expected = model.lm_head(direct.run(model.events))
    torch.testing.assert_close(found[direct.present], expected, atol=2e-5, rtol=2e-5)
    assert kept == direct.kept
    gone = torch.ones(len(one.ids), dtype=torch.bool)
    gone[direct.present] = False
    assert (found[gone] == 0).all()


@pytest.mark.parametrize("by", ["last", "mean", "vtw"])
@torch.no_grad()
def test_rows_that_left_are_columns_that_nobody_sees(by: str):
    """FastV's own first form: full length, columns masked from layer K on."""
    reducer = {"type": "vtw", "layer": 2} if by == "vtw" else REDUCERS["fastv"] | {"by": by}
    model = model_with(reducer)
    one = sample(model, 6)
    batch = inputs(model, [one])
    found, kept = model(**batch).logits[0], rows_kept(model, batch)[0]
    direct = Direct(model, one.ids, one.prompt)
    gone = direct.visual.clone()
    gone[kept] = False
    hidden, rows = direct.hidden[None], len(one.ids)
    for i, layer in enumerate(direct.language.layers):
        mask = torch.full((rows, rows), -torch.inf).triu(1)
        if i >= 2:
            mask[:, gone] = -torch.inf
            mask.fill_diagonal_(0)
        hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=direct.rope())
    expected = model.lm_head(direct.language.norm(hidden))[0]
    torch.testing.assert_close(found[~gone], expected[~gone], atol=2e-5, rtol=2e-5)


NOTHING: dict[str, Any] = {
    "fastv": {"type": "fastv", "ratio": 0.0},
    "fastv_mean": {"type": "fastv", "ratio": 0.0, "by": "mean"},
    "pyramiddrop": {"type": "pyramiddrop", "ratio": 1.0},
    "shortv": {"type": "shortv", "active": 4},
    "late": {"type": "late", "layer": 0},
    "all": [
        {"type": "late", "layer": 0},
        {"type": "pyramiddrop", "layers": [1, 2], "keep": [16, 16]},
        {"type": "shortv", "active": 4},
    ],
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_remove_is_the_plain_model(name: str):
    for section in ({}, GRID | {"band.softmax": "joint"}, {"prompt": "image_first"}):
        whole = model_of(with_keys(TINY, anchors="all", **section))
        reduced = model_of(with_keys(TINY, anchors="all", **section, reducer=NOTHING[name]))
        shown = [sample(whole, 5, (0, 1)), sample(whole, 7, (2,)), sample(whole, 4, ())]
        for one, two in zip(said(whole, shown), said(reduced, shown), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_longest_row_without_an_image_keeps_no_others_rows(side: str):
    """A removal goes by what each sample has, whoever is the longest."""
    for reducer in (REDUCERS["fastv"], REDUCERS["late"], REDUCERS["shortv"], HIDROP):
        model = model_with(reducer)
        one, other = sample(model, 5), sample(model, 40, ())
        alone, together = said(model, [one])[0], said(model, [other, one], side)[1]
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=2e-5)


def test_training_ranks_by_the_row_before_each_answer():
    model = model_with({"type": "pyramiddrop", "layers": [2], "ratio": 0.3}).eval()
    one = sample(model, 6, answer=9)
    batch = inputs(model, [one])
    second = one.prompt + 5
    batch["labels"][0, one.prompt + 2 : second] = -100  # a second turn asks here
    kept = rows_kept(model, batch)[0]
    model.set_attn_implementation("eager")
    direct = Direct(model, one.ids, one.prompt)
    with torch.no_grad():
        for layer in direct.language.layers[:2]:
            direct.hidden = layer(
                direct.hidden[None],
                attention_mask=torch.full((len(one.ids),) * 2, -torch.inf).triu(1)[None, None],
                position_embeddings=direct.rope(),
            )[0]
        weights = direct.maps(direct.language.layers[2])[[one.prompt - 1, second - 1]].mean(0)
    best = weights.masked_fill(~direct.visual, -1).argsort(descending=True)[:5]
    assert kept == sorted(best.tolist())
    assert kept != rows_kept(model, batch | {"labels": inputs(model, [one])["labels"]})[0]


def test_layers_hold_the_rows_that_reach_them():
    model = model_with(HIDROP)
    batch = inputs(model, [sample(model)], upto="prompt")
    with torch.no_grad():
        past = model(**batch, use_cache=True).past_key_values
    held = [layer.keys.shape[2] for layer in past.self_attention_cache.layers]
    words = batch["input_ids"].shape[1] - 16
    assert held == [words, words + 16, words + 6, words]


def test_frozen_rows_are_not_computed(monkeypatch: pytest.MonkeyPatch):
    model = model_with({"type": "shortv", "active": 0})
    batch = inputs(model, [sample(model)])
    seen: dict[str, set[int]] = {}

    def watch(name: str) -> Any:
        return lambda module, args: seen.setdefault(name, set()).add(args[0].shape[1])

    for layer in model.language_model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            getattr(layer.self_attn, name).register_forward_pre_hook(watch(name))
        layer.mlp.register_forward_pre_hook(watch("mlp"))
    with torch.no_grad():
        model(**batch)
    rows = batch["input_ids"].shape[1]
    words = rows - 16
    assert seen == {"q_proj": {words}, "k_proj": {rows}, "v_proj": {rows}, "o_proj": {words},
                    "mlp": {words}}  # fmt: skip
