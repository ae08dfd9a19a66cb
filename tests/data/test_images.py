"""Pictures of every kind give the pixels that one sees, or a reason; nothing is run."""

import numpy as np
import pytest

from data.pictures import BAD, BLUE, CLOSE, EXACT, GOOD, GREY, HIGH, ODD, RED, SCENE, WIDE, scene
from eramv_lab.data import images
from eramv_lab.data.images import decode, for_shard


def far(one_HWC, other_HWC) -> int:
    return int(np.abs(one_HWC.astype(int) - other_HWC.astype(int)).max())


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_is_rgb(name):
    image_HWC = decode(GOOD[name])
    assert image_HWC.dtype == np.uint8 and image_HWC.ndim == 3 and image_HWC.shape[2] == 3


@pytest.mark.parametrize("name", EXACT)
def test_lossless_kinds_are_the_scene(name):
    assert np.array_equal(decode(EXACT[name]), scene())


@pytest.mark.parametrize("name", CLOSE)
def test_lossy_kinds_are_nearly_the_scene(name):
    image_HWC = decode(CLOSE[name])
    assert image_HWC.shape == (HIGH, WIDE, 3)
    # away from the edge between the colours, which a lossy kind blurs
    assert far(image_HWC[:, :8], np.array(RED)) < 12
    assert far(image_HWC[:, -8:], np.array(BLUE)) < 12


@pytest.mark.parametrize("name", GREY)
def test_grey_kinds_keep_their_range(name):
    image_HWC = decode(GREY[name])
    assert far(image_HWC, np.asarray(SCENE.convert("L"))[..., None]) < 6


def test_what_is_transparent_shows_white():
    for name in ("alpha.png", "alpha.webp"):
        image_HWC = decode(ODD[name])
        assert (image_HWC[: HIGH // 2] == 255).all()
        assert np.array_equal(image_HWC[HIGH // 2 :], scene()[HIGH // 2 :])
    image_HWC = decode(ODD["see_through.png"])
    assert (image_HWC[:, WIDE // 2 :] == 255).all() and (image_HWC[:, : WIDE // 2] == RED).all()


def test_one_pixel_wide():
    assert decode(ODD["thin.png"]).shape == (300, 1, 3)
    assert decode(ODD["flat.jpg"]).shape == (1, 300, 3)


def test_sixteen_bits_are_scaled_and_not_clipped():
    grey_HW = decode(GREY["deep_grey.tif"])[..., 0]
    assert len(np.unique(grey_HW)) == 2 and grey_HW.max() < 255


@pytest.mark.parametrize("name", BAD)
def test_bad_ones_are_refused_with_a_reason(name):
    content, reason = BAD[name]
    for call in (decode, for_shard):
        with pytest.raises(ValueError, match=f"^{reason}: ") as error:
            call(content)
        assert len(str(error.value)) < 200


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(images, "_upright_rgb", lambda _: pytest.fail("decoded"))
    for name in ("bomb.png", "large.png"):
        with pytest.raises(ValueError, match="too many pixels"):
            decode(BAD[name][0])


def test_damaged_exif_turns_nothing():
    content = CLOSE["turned.jpg"]
    place = content.index(b"Exif\0\0") + 6
    broken = content[:place] + b"\xff" * 8 + content[place + 8 :]
    assert decode(broken).shape == (WIDE, HIGH, 3)


@pytest.mark.parametrize("name", GOOD)
def test_a_shard_keeps_the_bytes_or_a_png_of_the_same_pixels(name):
    ending, content = for_shard(GOOD[name])
    kept = name.endswith((".png", ".jpg", ".webp", ".mpo"))
    assert (content == GOOD[name]) == kept
    assert ending in ("png", "jpg", "webp") and (kept or ending == "png")
    assert np.array_equal(decode(content), decode(GOOD[name]))
