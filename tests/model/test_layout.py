"""Where rows stand: worked examples, by hand."""

from typing import Any

import pytest
import torch
from laws.probes import spec_of
from laws.settings import TINY, with_keys
from torch import Tensor

from eramv_lab.model.layout import lay_out
from eramv_lab.model.sight import Sight, remember

# t a word, v a visual row, . padding; an image is two rows
TWO_IMAGES = "tvvtvvt"


def rows_of(text: str) -> tuple[Tensor, Tensor | None]:
    visual = torch.tensor([[c == "v" for c in line] for line in text.split()])
    real = torch.tensor([[c != "." for c in line] for line in text.split()])
    return visual, None if bool(real.all()) else real


def laid_out(text: str, **how: Any) -> Any:
    visual, real = rows_of(text)
    segments = how.pop("segments", None)
    return lay_out(visual, real, segments, rows=2, images=how.pop("images", 2), **how)


@pytest.mark.parametrize(
    ("text", "packed", "one", "grid"),
    [
        # the grid reserves 5 ids for an image, its rows are patches 1 and 4
        (TWO_IMAGES, [0, 1, 2, 3, 4, 5, 6], [0, 1, 1, 2, 3, 3, 4], [0, 2, 5, 6, 8, 11, 12]),
        ("vvvvt", [0, 1, 2, 3, 4], [0, 0, 1, 1, 2], [1, 4, 6, 9, 10]),
        ("..tvvt", [0, 0, 0, 1, 2, 3], [0, 0, 0, 1, 1, 2], [0, 0, 0, 2, 5, 6]),
        ("tvvt..", [0, 1, 2, 3, None, None], [0, 1, 1, 2, None, None], [0, 2, 5, 6, None, None]),
        ("ttt", [0, 1, 2], [0, 1, 2], [0, 1, 2]),
    ],
)
def test_positions(text: str, packed: list[Any], one: list[Any], grid: list[Any]):
    visual, _ = rows_of(text)
    patch = torch.zeros_like(visual, dtype=torch.long)
    patch = patch.masked_scatter(visual, torch.tensor([1, 4] * 8))
    for expected, how in ((packed, {}), (one, {"one": True}), (grid, {"span": 5})):
        if "span" in how:
            how |= {"offset_BT": patch}
        found = laid_out(text, **how).positions_BT[0].tolist()
        assert [f for f, e in zip(found, expected, strict=True) if e is not None] == [
            e for e in expected if e is not None
        ], how


def test_images_are_counted_and_know_their_first_position():
    for how, starts in (({}, [1, 4]), ({"one": True}, [1, 3]), ({"span": 5}, [1, 7])):
        layout = laid_out(TWO_IMAGES, **how)
        assert layout.begun_BT.tolist() == [[0, 1, 1, 1, 2, 2, 2]]
        assert layout.starts_BI.tolist() == [starts]
    batch = laid_out("tvvtvvt ..tvvtt ...tttt")
    assert batch.starts_BI.tolist() == [[1, 4], [1, 0], [0, 0]]
    assert batch.begun_BT[1:].tolist() == [[0, 0, 0, 1, 1, 1, 1], [0] * 7]


def test_a_placeholder_in_the_padding_is_padding():
    visual = torch.tensor([[True, True, False, True, True, False]])
    real = torch.tensor([[False, False, True, True, True, True]])
    layout = lay_out(visual, real, None, rows=2, images=1)
    assert layout.visual_BT.tolist() == [[False, False, False, True, True, False]]
    assert layout.starts_BI.tolist() == [[1]]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 3, 4, 5, 3]),
        ({"one": True}, [0, 1, 1, 2, 3, 2, 3, 4, 2]),
        ({"span": 5}, [0, 1, 1, 6, 7, 6, 7, 8, 6]),
    ],
)
def test_packed_questions_each_go_on_from_the_image(how: dict[str, Any], expected: list[int]):
    segments = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 3]])
    layout = laid_out("tvvtttttt", images=1, segments=segments, **how)
    assert layout.positions_BT.tolist() == [expected]


def test_packed_questions_of_uneven_samples():
    segments = torch.tensor([[0, 0, 0, 1, 2, 2], [0, 0, 0, 0, 1, 2]])
    layout = laid_out("tvvttt .tvvtt", images=1, segments=segments)
    assert layout.positions_BT.tolist() == [[0, 1, 2, 3, 3, 4], [0, 0, 1, 2, 3, 3]]


@pytest.mark.parametrize(
    ("positions", "cls", "expected"),
    [
        ("one", True, [[1, 1, 1, 4, 4, 4], [2, 2, 2, 0, 0, 0]]),
        ("grid", False, [[1, 3, 4, 4, 6, 7], [2, 4, 5, 0, 2, 3]]),  # patches 0, 2 and 3
        ("grid", True, [[2, 4, 5, 5, 7, 8], [3, 5, 6, 1, 3, 4]]),  # CLS has the first id
        ("none", True, None),
    ],
)
def test_fine_features_stand_where_their_image_does(positions: str, cls: bool, expected: Any):
    prompt = {"type": "image_first", "positions": "grid"}
    anchors = {"type": "cls_topk", "count": 2 - cls, "cls": cls}
    spec = spec_of(with_keys(TINY, prompt=prompt, anchors=anchors, **{"band.positions": positions}))
    features = torch.arange(3.0)[:, None, None].expand(3, 3, 4)  # three images
    sight = Sight(
        visual_NAD=None,
        index_NA=None,
        fine_NMD=features,
        fine_NM=torch.tensor([[0, 2, 3]] * 3),
    )
    memory = remember(sight, laid_out("tvvtvvt ttvvttt"), (2, 1), spec)
    assert memory is not None and memory.mask_BM is not None
    assert memory.mask_BM.tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    assert memory.image_BM.tolist() == [[1, 1, 1, 2, 2, 2]] * 2
    assert memory.states_BMD[..., 0].tolist()[0] == [0, 0, 0, 1, 1, 1]
    assert memory.states_BMD[1, :3, 0].tolist() == [2, 2, 2]
    found = memory.positions_BM
    if expected is None:
        assert found is None
    else:
        assert found is not None
        real = memory.mask_BM
        assert found[real].tolist() == torch.tensor(expected)[real].tolist()
