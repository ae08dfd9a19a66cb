"""Options of lmms-eval's command line, settings, messages and pictures, as the model takes them."""

from __future__ import annotations

import pytest
from integrations.conftest import picture
from PIL import Image

from eramv_lab.errors import UserError
from eramv_lab.integrations.lmms_options import Options
from eramv_lab.integrations.lmms_text import cut, generation_settings, rgb, talk_of_messages


def test_everything_wrong_with_the_options_is_told_together():
    given = {"pretrain": "x", "dtype": "bf16", "batch_size": "auto", "attn_implementation": "fast"}
    with pytest.raises(UserError) as caught:
        Options.of(given)
    text = str(caught.value)
    assert text.startswith("5 problems") and "did you mean: pretrained" in text
    for part in ("missing: a model folder", "found 'bf16'", "found 'auto'", "bfloat16", "sdpa"):
        assert part in text
    found = Options.of({"pretrained": "x", "batch_size": "4", "device": None, "adapter": 7})
    assert (found.batch_size, found.max_new_tokens, found.adapter) == (4, 1024, "7")


@pytest.mark.parametrize("name", ["pretrained", "adapter"])
def test_a_folder_that_is_none_is_named(folder, tmp_path, name):
    given = {"pretrained": str(folder), name: str(tmp_path)}
    with pytest.raises(UserError, match=str(tmp_path)):
        Options.of(given).load()


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({}, {"do_sample": False, "max_new_tokens": 9}),
        ({"temperature": 0, "do_sample": True, "top_p": 0.5}, {"do_sample": False}),
        ({"temperature": 0.7, "top_p": None}, {"do_sample": True, "temperature": 0.7}),
        ({"temperature": 0.7, "do_sample": False}, {"do_sample": False}),
        ({"do_sample": True, "top_k": 3}, {"do_sample": True, "top_k": 3}),
        ({"max_new_tokens": 2, "num_beams": 3, "until": ["x"]}, {"num_beams": 3}),
        ({"max_gen_toks": 5, "image_aspect_ratio": "pad"}, {"max_new_tokens": 5}),
    ],
)
def test_a_tasks_settings_become_those_of_generate(task, expected):
    most = {"max_new_tokens": task.get("max_new_tokens", 9)}
    found = generation_settings(task, 9)
    assert found == {"do_sample": False} | most | expected


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (["\n\n"], "a b\nc"),
        ("b", "a"),
        (["", "c", "b"], "a"),
        (None, "a b\nc\n\nd"),
        ([], "a b\nc\n\nd"),
    ],
)
def test_an_answer_ends_at_the_first_mark(until, expected):
    assert cut("\n\na b\nc\n\nd ", until) == expected


def test_messages_become_turns():
    one, two = picture(1), picture(2)
    found = talk_of_messages(
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [
                {"type": "image", "url": one},
                {"type": "text", "text": "<image>\nwhat"},
                {"type": "text", "text": "is it"},
            ]},
            {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
            {"role": "user", "content": [
                {"type": "text", "text": "and"}, {"type": "image", "url": two},
            ]},
        ]
    )  # fmt: skip
    assert found.history == [("be brief\nwhat\nis it", "red")] and found.question == "and"
    assert [image.tolist() for image in found.images] == [rgb(i).tolist() for i in (one, two)]
    with pytest.raises(UserError, match="end with an answer"):
        talk_of_messages([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    with pytest.raises(UserError, match="text and images"):
        talk_of_messages([{"role": "user", "content": [{"type": "video", "url": "film.mp4"}]}])


def test_pictures_are_read_as_the_data_reads_them(tmp_path):
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (rgb(clear) == 255).all() and (rgb(str(tmp_path / "clear.png")) == 255).all()
    with pytest.raises(UserError, match="not dict"):
        rgb({"type": "audio"})
    (tmp_path / "film.mp4").write_bytes(b"film")
    with pytest.raises(UserError, match=r"film\.mp4: not an image"):
        rgb(tmp_path / "film.mp4")
