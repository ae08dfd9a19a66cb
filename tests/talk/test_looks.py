"""Where a model looked: each patch in its place, whatever the band reads and leaves out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eramv_lab.errors import UserError
from eramv_lab.talk import Answer, Question, Talker
from eramv_lab.talk.maps import Look, looks_of
from eramv_lab.talk.picture import _foot, draw
from eramv_lab.talk.pictures import open_pictures
from tests.talk.tiny import talker_of

TEXT = "what digit in red circle"


def look(talker: Talker, pictures: Path, images: int = 1, said: tuple[int, ...] = (20, 21, 22)):
    files = [pictures / f"{n}.png" for n in range(images)]
    question = Question(text=TEXT, images=tuple(talker.see(open_pictures(files))))
    return looks_of(talker, question, Answer("x", said, True)), question


def chosen(talker: Talker, question: Question, number: int = 0) -> list[int]:
    """Anchors as the selector itself says."""
    features = {k: v[None] for k, v in question.images[number].features.items()}
    with torch.inference_mode():
        index = talker.model.selector(talker.model.see(None, features)).index_NA[0]
    return [i for i in index.tolist() if i >= 0]


def test_a_layers_map_is_its_cross_attention(talker: Talker, pictures: Path):
    (found,), question = look(talker, pictures)
    assert list(found.anchors) == chosen(talker, question) and len(found.anchors) == 4
    assert (found.cls, found.rows, found.grid, found.band) == (True, 5, (4, 4), (1, 2))
    model, said = talker.model, torch.tensor([[20, 21]])
    before = model.language_model.config._attn_implementation
    model.set_attn_implementation("eager")
    inputs = talker.inputs([question])
    ids = torch.cat([inputs["input_ids"], said], dim=1)
    with torch.inference_mode():
        maps = model(
            input_ids=ids,
            vision_features=inputs["vision_features"],
            image_counts=(1,),
            output_attentions=True,
        ).attentions
    model.set_attn_implementation(before)
    for layer in found.layers:
        rows = maps[layer.layer][1][0, :, -3:].mean(dim=(0, 1)).numpy()  # the row before each word
        np.testing.assert_allclose(layer.shares_P, rows, atol=1e-6)
        assert layer.shares_P.sum() == pytest.approx(1, abs=1e-5) and layer.cls is None
    assert model.language_model.config._attn_implementation == before


def test_the_pixels_are_what_the_tower_saw(talker: Talker, pictures: Path):
    (found,), _ = look(talker, pictures)
    with Image.open(pictures / "0.png") as image:  # 40 high, 48 wide: padded on a square
        square = Image.new("RGB", (48, 48), (127, 127, 127))
        square.paste(image, (0, 4))
        expected = np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(found.pixels_HW3, expected, atol=0.01)


def test_two_images_share_the_attention(talker: Talker, pictures: Path):
    found, question = look(talker, pictures, images=2)
    assert [list(one.anchors) for one in found] == [chosen(talker, question, n) for n in (0, 1)]
    for one, other in zip(found[0].layers, found[1].layers, strict=True):
        assert one.shares_P.sum() + other.shares_P.sum() == pytest.approx(1, abs=1e-5)
        assert not np.allclose(one.shares_P, other.shares_P)


def test_what_the_band_leaves_out_has_no_share(pictures: Path):
    talker = talker_of(fine={"type": "all", "exclude_anchors": True, "cls": True})
    (found,), question = look(talker, pictures)
    anchors = chosen(talker, question)
    for layer in found.layers:
        assert np.flatnonzero(np.isnan(layer.shares_P)).tolist() == anchors
        assert layer.cls is not None
        assert np.nansum(layer.shares_P) + layer.cls == pytest.approx(1, abs=1e-5)
    # one patch after another: a fine feature that is moved moves its share
    features = talker.inputs([question])["vision_features"]
    from eramv_lab.model.sight import look as sight_of

    model = talker.model
    with torch.inference_mode():
        seen = model.see(None, features)
        sight = sight_of(seen, model.spec, model.selector, model.connector, model.fine)
    assert sight.fine_NM is not None and sight.fine_NM[0, 0] == -1
    assert sight.fine_NM[0, 1:].tolist() == [p for p in range(16) if p not in anchors]


@pytest.mark.parametrize(
    ("changes", "words", "layers"),
    [
        ({}, "anchors cls_topk: 4 patches and CLS, outlined", 2),
        ({"band": "none"}, "anchors cls_topk", 0),
        ({"anchors": "all"}, "anchors all: every patch is in the sequence, 16 rows", 2),
        ({"anchors": "none"}, "anchors none: no row of the image in the sequence", 2),
        ({"anchors": {"type": "pool", "count": 4}}, "pool: 4 made of many patches", 2),
        ({"band.queries": "visual"}, "anchors cls_topk", 0),
        ({"band.softmax": "joint", "band.positions": "one"}, "anchors cls_topk", 2),
        ({"anchors": "all", "prompt": "image_first", "reducer": "fastv"}, "anchors all", 2),
    ],
)
def test_every_kind_of_model_is_told(
    pictures: Path, tmp_path: Path, changes: dict[str, Any], words: str, layers: int
):
    talker = talker_of(**changes)
    (found,), question = look(talker, pictures)
    assert words in found.caption() and len(found.layers) == layers
    file = draw([found], question, Answer("7", (20,), True), tmp_path / "a" / "look.png")
    with Image.open(file) as drawn:
        assert drawn.format == "PNG" and drawn.width > 300 * (1 + layers)
    assert [f.name for f in file.parent.iterdir()] == ["look.png"]
    foot = _foot(found, 1)
    if "band" in changes:
        assert "no band" in foot
    elif "band.queries" in changes:
        assert "never the answer's" in foot
    else:
        assert "the row that said the answer" in foot
    if changes.get("band.softmax") == "joint":
        assert all(layer.shares_P.sum() < 0.999 for layer in found.layers)


def test_an_answer_of_no_word_is_what_the_last_row_said(talker: Talker, pictures: Path):
    (none,), _ = look(talker, pictures, said=())
    (one,), _ = look(talker, pictures, said=(20,))
    assert isinstance(none, Look)
    np.testing.assert_array_equal(none.layers[0].shares_P, one.layers[0].shares_P)


def test_nothing_to_show_and_no_png(talker: Talker, pictures: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no image"):
        look(talker, pictures, images=0)
    found, question = look(talker, pictures)
    with pytest.raises(UserError, match=r"should be a \.png"):
        draw(found, question, Answer("7", (20,), True), tmp_path / "look.jpg")


def test_rows_of_a_connector_have_no_place(talker: Talker, pictures: Path):
    (found,), _ = look(talker, pictures)
    made = replace(found, connector="qformer", rows=32)
    assert found.connector == "" and "outlined" in found.caption()
    assert made.caption() == "qformer: 32 rows of its own, made of the whole image"
