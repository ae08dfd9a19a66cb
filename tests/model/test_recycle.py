"""SparseVLM's raters and clusters against plain loops, and the whole against a plain reading."""

import math
from typing import Any

import pytest
import torch
from laws.whole import IMAGE, SYSTEMS, inputs, model_of, sample
from torch import Tensor

from eramv_lab.model.rank import ranking
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


@torch.no_grad()
def test_the_whole_is_what_the_pieces_say(monkeypatch: pytest.MonkeyPatch):
    """Rows after each removal: the best by the raters' attention, then the merged ones' centres."""
    from eramv_lab.model import decoder

    model = model_of(SYSTEMS["sparsevlm_plain"])  # keep 7 before layer 1, 3 before layer 2
    model.set_attn_implementation("eager")
    one = sample(model, 7)
    words = len(one.ids) - one.ids.count(IMAGE)
    maps: list[Tensor] = []
    seen: list[list[int]] = []
    original = decoder.drop

    def keep_map(layer: Any, args: Any, kwargs: Any) -> None:
        """Attention of the words in a layer, the mean over heads."""
        rows = args[0].shape[1]
        mask = torch.full((rows, rows), -torch.inf).triu(1)[None, None]
        weights = layer.self_attn(
            hidden_states=layer.input_layernorm(args[0]),
            attention_mask=mask,
            position_embeddings=kwargs["position_embeddings"],
        )[1][0].mean(0)
        maps.append(torch.cat([weights[:1], weights[1 - words :]]))  # BOS, image, the rest

    def watched(rows: Any, event: Any, scores: Any) -> bool:
        weight_BL = ranking(rows, "raters").weight_BR
        assert weight_BL is not None
        expected = (maps[-1] * weight_BL[0][:, None]).sum(0)
        torch.testing.assert_close(scores[0], expected, atol=1e-5, rtol=1e-4)
        before, visual = rows.hidden_BSD[0].clone(), rows.visual_BS[0].clone()
        index = rows.rows_BS[0].clone()
        original(rows, event, scores)
        order = scores[0].masked_fill(~visual, -1).argsort(descending=True)
        stay, merged = order[: event.keep], order[event.keep : event.keep + event.recycled]
        centres, of = by_loops(before[merged], event.made)
        left = sorted([*stay.tolist(), *(int(merged[c]) for c in centres)])
        assert rows.rows_BS[0][rows.visual_BS[0]].tolist() == index[left].tolist()
        for number, centre in enumerate(centres):
            members = before[merged[[i for i, c in enumerate(of) if c == number]]]
            at = rows.rows_BS[0].tolist().index(int(index[merged[centre]]))
            torch.testing.assert_close(rows.hidden_BSD[0, at], members.mean(0))
        assert rows.positions_BS[0].tolist() == list(range(rows.rows_BS.shape[1]))
        seen.append(left)
        return True

    for layer in model.language_model.layers:
        layer.register_forward_pre_hook(keep_map, with_kwargs=True)
    monkeypatch.setattr(decoder, "drop", watched)
    model(**inputs(model, [one]))
    assert len(seen) == 2
