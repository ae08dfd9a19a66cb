"""SparseVLM's raters and clusters against plain loops, and its recipe against a plain reading."""

import math
from typing import Any

import pytest
import torch
from laws.recipes import model_of_recipe, places, plain_of
from laws.whole import IMAGE, inputs, sample
from torch import Tensor

from eramv_lab.model.recycle import cluster, raters


def test_raters_are_the_words_nearer_than_the_mean():
    torch.manual_seed(0)
    patches, words = torch.randn(2, 9, 4), torch.randn(2, 6, 4)
    asked = torch.ones(2, 6, dtype=torch.bool)
    asked[1, :3] = False
    found = raters(patches, None, words, asked)
    for b in range(2):
        chosen = asked[b].nonzero()[:, 0].tolist()
        near = dict.fromkeys(chosen, 0.0)
        for patch in patches[b]:
            powers = {w: math.exp(float(patch @ words[b, w])) for w in chosen}
            for w in chosen:
                near[w] += powers[w] / sum(powers.values()) / 9
        bar = sum(near.values()) / len(chosen)
        rating = [w for w in chosen if near[w] >= bar]
        assert 0 < len(rating) < len(chosen)
        expected = [1 / len(rating) if w in rating else 0.0 for w in range(6)]
        assert found[b].tolist() == pytest.approx(expected)


def by_loops(rows: Tensor, count: int) -> tuple[list[int], list[int]]:
    """Centres, and the cluster of each row."""
    n, width = rows.shape
    apart = [[float((a - b).square().sum()) / width for b in rows] for a in rows]
    density = [math.exp(-sum(sorted(line)[:count]) / count) for line in apart]
    worth: list[float] = []
    for i in range(n):
        denser = [apart[i][j] for j in range(n) if (-density[j], j) < (-density[i], i)]
        lead = min(denser) if denser else max(max(line) for line in apart)
        worth.append(math.sqrt(lead) * density[i])
    centres = sorted(range(n), key=lambda i: -worth[i])[:count]
    return centres, [min(range(count), key=lambda c: apart[i][centres[c]]) for i in range(n)]


@pytest.mark.parametrize("merge", ["mean", "sum"])
def test_rows_are_merged_by_density_peaks(merge: str):
    torch.manual_seed(1)
    rows = torch.randn(2, 11, 6)
    real = torch.ones(2, 11, dtype=torch.bool)
    real[1, 7:] = False
    counts = torch.tensor([4, 2])
    found = cluster(rows, real, counts, 4, merge)
    for b, (n, count) in enumerate(((11, 4), (7, 2))):
        centres, of = by_loops(rows[b, :n], count)
        assert found.centre_BC[b, :count].tolist() == centres
        for c in range(count):
            members = rows[b, [i for i in range(n) if of[i] == c]]
            expected = members.mean(0) if merge == "mean" else members.sum(0)
            torch.testing.assert_close(found.merged_BCD[b, c], expected)


def test_twins_are_clusters_of_their_own():
    rows = torch.ones(1, 4, 3)
    found = cluster(rows, torch.ones(1, 4, dtype=torch.bool), torch.tensor([3]), 3, "mean")
    assert torch.equal(found.merged_BCD, torch.ones(1, 3, 3))


TWELVE: dict[str, Any] = {"vision.patch": 4}
"""Patches of a side, 144 in all."""
KEPT = {1: (75, 21, 3), 2: (50, 9, 1), 4: (28, 7, 1)}
"""After layers 2, 6 and 15 of 32: rows that stay of 300, 200 and 110 of 576, the best of the others
that are merged (30 % and one), and clusters of them (a tenth and one)."""


@pytest.mark.parametrize("positions", ["one", "packed"])
@torch.no_grad()
def test_the_recipe_is_its_plain_reading(positions: str):
    """Over transformers' layers; shared positions go on being shared, others are closed up."""
    model = model_of_recipe("sparsevlm", **(TWELVE | {"prompt.positions": positions}))
    one = sample(model, 7)
    batch = inputs(model, [one])
    plain, ids_S = plain_of(model), batch["input_ids"][0]
    visual_S = ids_S == IMAGE
    states_PD = model.connector(model.see(batch["pixel_values"], None).states_NPV)[0]
    rows_SD = plain.embed_tokens(ids_S).masked_scatter(visual_S[:, None], states_PD)
    words = range(1 + 144, one.prompt)  # of the question, behind the image
    near_W = (rows_SD[visual_S] @ rows_SD[words].T).softmax(1).mean(0)
    rating_W = near_W > near_W.mean()
    assert 0 < rating_W.sum() < len(words)
    here_L = torch.arange(len(ids_S))
    for i, layer in enumerate(plain.layers):
        count, seen_L = len(here_L), visual_S[here_L]
        place_L = places(ids_S[here_L], int(seen_L.sum())) if positions == "one" else None
        place_L = torch.arange(count) if place_L is None else place_L
        more = {
            "attention_mask": torch.full((1, 1, count, count), torch.finfo().min).triu(1),
            "position_embeddings": plain.rotary_emb(rows_SD[None], place_L[None]),
        }
        maps = layer.self_attn(layer.input_layernorm(rows_SD[None]), **more)[1][0].mean(0)
        rows_SD = layer(rows_SD[None], **more)[0]
        if i not in KEPT:
            continue
        keep, merged, made = KEPT[i]
        shift = count - len(ids_S)
        asked_L = maps[words.start + shift : words.stop + shift][rating_W].mean(0)
        best = asked_L.masked_fill(~seen_L, -1).argsort(descending=True).tolist()
        lost = best[keep : keep + merged]
        centres, of = by_loops(rows_SD[lost], made)
        means = [
            rows_SD[[lost[j] for j in range(merged) if of[j] == c]].mean(0) for c in range(made)
        ]
        for centre, mean in zip(centres, means, strict=True):
            rows_SD[lost[centre]] = mean
        stay_L = ~seen_L
        stay_L[[*best[:keep], *(lost[centre] for centre in centres)]] = True
        rows_SD, here_L = rows_SD[stay_L], here_L[stay_L]
    expected = model.lm_head(plain.norm(rows_SD))
    torch.testing.assert_close(model(**batch).logits[0, here_L], expected, atol=1e-5, rtol=1e-5)
