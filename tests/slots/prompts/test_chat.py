"""Frames of chat templates of several shapes."""

from pathlib import Path

import hub
import pytest

from eramv_lab.errors import UserError
from eramv_lab.slots.prompts.chat import DATE, chat_frames, lacks_chat
from eramv_lab.slots.prompts.pieces import Frame


def test_llamas_blank_belongs_to_the_answer():
    one = Frame("<s>[INST] ", " [/INST]", " ", " </s>", eos=False)
    assert chat_frames(hub.llama_tokenizer(), 2) == (one, one)


def test_a_thought_stands_before_the_last_answer_alone():
    frames = chat_frames(hub.qwen_tokenizer(hub.QWEN3), 2)
    asked = "<|im_end|>\n<|im_start|>assistant\n"
    assert frames == (
        Frame("<|im_start|>user\n", asked, "", "<|im_end|>", eos=False),
        Frame(
            "\n<|im_start|>user\n",
            f"{asked}<think>\n\n</think>\n\n",
            "",
            "<|im_end|>",
            eos=False,
        ),
    )


def test_what_a_prompt_does_not_hold_is_learnt():
    """A template that thinks, and whose prompt leaves the thought to the model."""
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q {{ m.content }}\n"
        "{% else %}A <think></think>{{ m.content }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A {% endif %}"
    )
    (frame,) = chat_frames(hub.qwen_tokenizer(template), 1)
    assert frame == Frame("Q ", "\nA", " <think></think>", "", eos=True)


def test_a_template_is_told_the_same_day_every_day():
    template = "{{ date_string }}" + hub.CHATML
    assert chat_frames(hub.qwen_tokenizer(template), 1)[0].before.startswith(DATE)


def test_another_template_can_be_given():
    assert chat_frames(hub.qwen_tokenizer(None), 1, hub.CHATML)[0].end == "<|im_end|>"
    with pytest.raises(UserError, match="no chat_template"):
        chat_frames(hub.qwen_tokenizer(None), 1)


def test_whether_a_folder_has_a_template_is_seen_without_loading_it(tmp_path: Path):
    hub.qwen_tokenizer().save_pretrained(tmp_path / "own")
    assert not lacks_chat(str(tmp_path / "own"))
    hub.qwen_tokenizer(None).save_pretrained(tmp_path / "none")
    assert lacks_chat(str(tmp_path / "none"))
    config = tmp_path / "none/tokenizer_config.json"
    config.write_text(config.read_text().replace("{", '{"chat_template": "x",', 1))
    assert not lacks_chat(str(tmp_path / "none"))
    assert not lacks_chat("someone/some-model")  # not looked up before the run
    (tmp_path / "empty").mkdir()
    assert lacks_chat(str(tmp_path / "empty"))
