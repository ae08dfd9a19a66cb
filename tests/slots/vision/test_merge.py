"""ToMe inside the towers, against a slow reading of its definition, image by image."""

import itertools
from typing import Any

import pytest
import torch
from laws.probes import build, perturb, spec_of
from laws.settings import TINY, TOWERS, with_keys
from torch import Tensor
from torch.nn.functional import cosine_similarity, gelu
from torch.utils.flop_counter import FlopCounterMode

from eramv_lab.registry import VISION
from eramv_lab.slots.contracts import Need
from eramv_lab.slots.vision._merge import merges, rows_left
from eramv_lab.slots.vision.tiny import TinyVision, TinyVisionConfig

SIZES: dict[str, Any] = {"image": 32, "width": 16, "layers": 3, "heads": 2, "ffn": 24}


def tower(**keys: Any) -> TinyVision:
    made = TinyVision(TinyVisionConfig(**SIZES | keys))
    perturb(made)
    return made.eval()


def merged(rows: list[Tensor], sizes: list[int], places: list[int], keys: Tensor, r: int) -> Any:
    """The r best pairs of one image's rows, CLS first, as sections 3.1 and 3.2 tell it."""
    if not r:
        return rows, sizes, places
    one, two = list(range(0, len(rows), 2)), list(range(1, len(rows), 2))
    nearest = {}
    for i in one[1:]:
        cosine = {j: float(cosine_similarity(keys[i], keys[j], dim=0)) for j in two}
        j = max(two, key=lambda j, c=cosine: (c[j], -j))
        nearest[i] = (cosine[j], j)
    gone = sorted(nearest, key=lambda i: (-nearest[i][0], i))[:r]
    weighted = [row * size for row, size in zip(rows, sizes, strict=True)]
    for i in gone:
        j = nearest[i][1]
        weighted[j], sizes[j] = weighted[j] + weighted[i], sizes[j] + sizes[i]
    order = [i for i in one if i not in gone] + two
    return ([weighted[i] / sizes[i] for i in order], [sizes[i] for i in order],
            [places[i] for i in order])  # fmt: skip


def tome(net: TinyVision, entering_SV: Tensor, pairs: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """States of one image behind all layers, in the order of their patches; their sizes."""
    rows = list(entering_SV)
    sizes, places = [1] * len(rows), list(range(len(rows)))
    for layer, r in zip(net.layers, pairs, strict=True):
        x = torch.stack(rows)
        qkv: Any = layer.qkv(layer.norm_1(x)).unflatten(-1, (3, 2, 8))
        q, k, v = qkv.permute(1, 2, 0, 3)
        logits = q @ k.transpose(1, 2) / 8**0.5 + torch.tensor(sizes).log()
        x = x + layer.out((logits.softmax(-1) @ v).transpose(0, 1).flatten(1))
        rows, sizes, places = merged(list(x), sizes, places, k.mean(0), r)
        x = torch.stack(rows)
        rows = list(x + layer.down(gelu(layer.up(layer.norm_2(x)))))
    order = sorted(range(len(rows)), key=lambda i: places[i])
    return net.norm(torch.stack([rows[i] for i in order])), [sizes[i] for i in order]


@torch.no_grad()
@pytest.mark.parametrize("merge", [9, 4, 2, (1, 0, 5), (8, 4, 2), (0, 0, 0)])
def test_merging_is_tome(merge: int | tuple[int, ...]):
    net, plain = tower(merge=merge), tower()
    pixels = torch.randn(3, 3, 32, 32)
    found = net(pixels, Need.CLS)
    entering: list[Tensor] = []
    plain.layers[0].register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    plain(pixels)
    pairs = merges(merge, 16, 3)
    for n in range(3):
        states, sizes = tome(net, entering[0][n], pairs)
        assert sizes[0] == 1 and sum(sizes) == 17  # CLS stands for itself alone
        torch.testing.assert_close(found.cls_NV[n], states[0], atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(found.states_NPV[n], states[1:], atol=2e-6, rtol=1e-5)
    assert found.grid == (1, 16 - sum(pairs))


@torch.no_grad()
def test_no_pairs_are_the_tower_itself():
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(tower(merge=16)(pixels).states_NPV, tower()(pixels).states_NPV)


@torch.no_grad()
def test_identical_patches_merge_into_themselves():
    """Rows that are alike stay what they are, however many become one: log(size) sees to it."""
    net, plain = tower(merge=2), tower()
    for one in (net, plain):
        one.positions.zero_()
    pixels = torch.zeros(1, 3, 32, 32)
    for one in net.stem, plain.stem:
        for convolution in one:
            convolution.weight.zero_()  # no border shows  # pyright: ignore[reportCallIssue]
    found, expected = net(pixels, Need.CLS), plain(pixels, Need.CLS)
    torch.testing.assert_close(found.cls_NV, expected.cls_NV)
    torch.testing.assert_close(found.states_NPV, expected.states_NPV[:, :2])


def test_pairs_are_even_where_halves_allow():
    assert merges(7, 16, 3) == (3, 3, 3) and merges(8, 16, 3) == (3, 3, 2)
    assert merges(None, 16, 3) == (0, 0, 0)
    assert rows_left(36, 144, 2) == [144, 72, 36]
    assert rows_left(40, 144, 2) == [144, 80, 40]
    assert rows_left(64, 576, 23)[-1] == 64 and set(merges(64, 576, 23)) == {22, 23}
    for patches in (1, 7, 16, 49):
        for layers in (1, 2, 5):
            for left in range(-(-patches // 2**layers), patches + 1):
                rows = rows_left(left, patches, layers)
                assert rows[0] == patches and rows[-1] == left
                assert all(0 <= a - b <= a // 2 for a, b in itertools.pairwise(rows))


@torch.no_grad()
@pytest.mark.parametrize("family", TOWERS)
def test_a_transformers_tower_merges_and_costs_what_it_says(family: str):
    keys: dict[str, Any] = {"config": TOWERS[family], "merge": 6}
    net, spec = build(("vision", "hf"), model={"anchors.type": "norm"}, **keys)
    plain, _ = build(("vision", "hf"), model={"anchors.type": "norm"}, config=TOWERS[family])
    for one in (net, plain):
        perturb(one)
    pixels = torch.randn(2, 3, 32, 32)
    found = net(pixels)
    assert found.states_NPV.shape == (2, 6, 16) and found.states_NPV.isfinite().all()
    net.pairs = (0, 0)
    assert torch.equal(net(pixels).states_NPV, plain(pixels).states_NPV)
    with torch.device("meta"):
        component = VISION.of(spec.vision)
        empty = component.factory(spec.vision, spec.dims())
        with FlopCounterMode(display=False) as counter:
            empty(torch.empty(1, 3, 32, 32))
    assert counter.get_total_flops() == sum(op.flops for op in spec.vision.ops())
    dims = spec.vision.dims()
    assert dims.merged and (dims.patches, dims.grid) == (6, (1, 6))


@torch.no_grad()
@pytest.mark.parametrize("family", TOWERS)
def test_a_layer_opened_up_is_the_layer(family: str):
    from eramv_lab.slots.vision._layers import merged as opened
    from eramv_lab.slots.vision._merge import Merging

    net, _ = build(("vision", "hf"), model={"anchors.type": "norm"}, config=TOWERS[family])
    perturb(net)
    encoder = net.tower.encoder
    layer: Any = (encoder.layers if hasattr(encoder, "layers") else encoder.layer)[0]
    rows = torch.randn(2, 17, 16)
    still = Merging(rows, (0,), cls=True)
    torch.testing.assert_close(opened(layer, rows, still, 2, 0), layer(rows, attention_mask=None))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"vision.merge": 3}, "leave 4 to 16"),
        ({"vision.merge": 17}, "leave 4 to 16"),
        ({"vision.merge": [1]}, "names 1 layers"),
        ({"vision.merge": [9, 0]}, "layer 0 has 16 patches, of which 0 to 8"),
        ({"vision.merge": 8, "anchors": {"type": "cls_topk", "count": 4}}, "asks for attention"),
        ({"vision.merge": 8, "anchors": {"type": "visionzip", "count": 4}}, "asks for attention"),
        ({"vision.merge": 8, "anchors": {"type": "pool", "count": 4}}, "grid"),
        ({"vision.merge": 8, "prompt.positions": "grid"}, "grid"),
    ],
    ids=str,
)
def test_what_cannot_merge_is_named(changes: dict[str, Any], what: str):
    from eramv_lab.recipe.model_spec import parse_model

    found: list[Any] = []
    section = with_keys(with_keys(TINY, anchors={"type": "norm", "count": 4}), **changes)
    assert parse_model(section, found) is None
    assert any(what in problem.message for problem in found), [p.message for p in found]


def test_merging_goes_with_every_patch_and_with_a_choice():
    for anchors in ("all", "none", {"type": "divprune", "count": 3}):
        spec = spec_of(with_keys(TINY, anchors=anchors, **{"vision.merge": 5}))
        assert spec.dims().vision.patches == 5
