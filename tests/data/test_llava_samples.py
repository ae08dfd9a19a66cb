"""What one sample of LLaVA's format may look like, and which image files are read for it."""

import pytest

from data.imports import sample, turns
from eramv_lab.data import packing
from eramv_lab.data.formats import llava
from eramv_lab.data.formats.conversation import Unusable


@pytest.mark.parametrize(
    ("first", "question"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<image>", "What?"),
        ("One\n<image>\ntwo", "One\ntwo"),
        ("What?", "What?"),
        ("<image>", ""),
        ("  <image> What?\n", "What?"),
    ],
)
def test_the_mark_of_the_image_goes_with_its_newline(first, question):
    assert llava.parse(sample("a.jpg", first, "It.")).turns == ((question, "It."),)


@pytest.mark.parametrize(
    "plain",
    [
        {"image": ["a.jpg"], "conversations": turns("<image>\nQ", "A")},
        {"image": "a.jpg", "messages": turns("<image>\nQ", "A", "and a last one")},
        {
            "image": "a.jpg",
            "conversations": [
                {"role": "user", "content": "<image>\nQ"},
                {"role": "assistant", "content": "A"},
            ],
        },
    ],
)
def test_other_ways_to_say_the_same(plain):
    said = llava.parse(plain)
    assert (said.image, said.turns, said.type) == ("a.jpg", (("Q", "A"),), "image")


@pytest.mark.parametrize(
    ("image", "more", "kind"),
    [
        ("coco/train2017/1.jpg", {}, "coco"),
        ("00453/004539375.jpg", {}, "image"),
        ("1.jpg", {}, "image"),
        ("coco/1.jpg", {"type": "count"}, "count"),
        ("coco/1.jpg", {"category": "color", "type": None}, "color"),
        ("coco/1.jpg", {"type": 3}, "coco"),
    ],
)
def test_the_type_of_a_question(image, more, kind):
    assert llava.parse(sample(image, **more)).type == kind


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        (3, "not a JSON object"),
        ({"image": "a.jpg"}, "no turns"),
        (sample(image=["a.jpg", "b.jpg"]), "several images"),
        (sample("a.jpg") | {"image": 3}, "image is not a path"),
        (sample(), "<image> and no image"),
        (sample("a.jpg", "<image><image>", "A"), "<image> stands more than once"),
        (sample("a.jpg", "Q", "A", "<image>", "B"), "<image> in a later turn"),
        (sample("a.jpg", "Q", "an <image>"), "<image> in an answer"),
        (sample("a.jpg", "Q", " \n"), "an empty answer"),
        (sample("a.jpg", "Q", "A", " ", "B"), "an empty question"),
        (sample(None, "", "A"), "an empty question"),
        (sample("a.jpg", "Q"), "no answer"),
        ({"conversations": turns("Q", "A")[::-1]}, "turns out of order"),
        ({"conversations": [{"from": "system", "value": "Q"}]}, "a turn of an unknown role"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a turn without text"),
        ({"conversations": ["Q"]}, "a turn is not a JSON object"),
        (sample(None, "Q", "\ud800"), "text that is not Unicode"),
    ],
)
def test_samples_that_cannot_be_used(plain, reason):
    with pytest.raises(Unusable, match=f"^{reason}"):
        llava.parse(plain)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.png", "the path leaves the image folder"),
        ("coco/../../secret.png", "the path leaves the image folder"),
        ("/etc/passwd", "the path leaves the image folder"),
        ("pipe.png", "the image is no plain file"),
        ("coco", "the image is no plain file"),
        ("coco/no.jpg", "no such image file"),
        ("coco/plain.png/x", "no such image file"),
        ("a\0b", "no such image file"),
        ("https://example.org/a.jpg", "no such image file"),
        ("x" * 5000, "the image file cannot be read"),
    ],
)
def test_files_that_are_not_read(source, name, reason):
    with pytest.raises(Unusable, match=f"^{reason}"):
        packing.read_image(str((source / "images").resolve()), name)


def test_links_of_ones_own_are_followed(source):
    """As many keep their COCO: linked into the image folder."""
    _, content = packing.read_image(str((source / "images").resolve()), "out/secret.png")
    assert content == (source / "secret.png").read_bytes()
