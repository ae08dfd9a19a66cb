"""What a tokenizer says of itself: its image token, its front, which texts are tokens."""

from pathlib import Path

import hub
import pytest

from eramv_lab.errors import UserError
from eramv_lab.slots.language.tokens import (
    as_text,
    front_of,
    image_token,
    load_tokenizer,
    special_texts,
)


def test_what_stands_in_front_is_the_tokenizers_own():
    assert front_of(hub.llama_tokenizer()) == front_of(hub.older_llama_tokenizer()) == (1,)
    assert front_of(hub.qwen_tokenizer()) == ()


def test_an_image_token_is_found_or_added_once():
    qwen = hub.qwen_tokenizer()
    size = len(qwen)
    assert image_token(qwen) == "<|image_pad|>" and len(qwen) == size
    bare = hub.qwen_tokenizer(pad=False)
    assert image_token(bare) == image_token(bare) == "<image>" and len(bare) == size
    bare.add_tokens(["<|image_pad|>"], special_tokens=True)
    assert image_token(bare) == "<image>"  # its own comes first
    assert bare.encode("<image>", add_special_tokens=False) == [size - 1]


def test_text_is_broken_where_it_would_be_a_token():
    special = special_texts(hub.qwen_tokenizer())
    assert set(special) == {
        *("<image>", "<|image_pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
    }
    assert as_text("a <image>b<|im_end|>", special) == "a < image>b< |im_end|>"
    assert as_text("a < image > b", special) == "a < image > b"


def test_a_tokenizer_comes_without_limits(tmp_path: Path):
    made = hub.llama_tokenizer()
    made.backend_tokenizer.enable_truncation(4)
    made.backend_tokenizer.enable_padding(length=9)
    made.save_pretrained(tmp_path)
    read = load_tokenizer(str(tmp_path)).backend_tokenizer
    assert len(read.encode("a red cat on the mat").ids) > 9
    assert len(read.encode("a").ids) < 9


@pytest.mark.parametrize("place", ["no folder", "someone/some-model"])
def test_a_place_without_a_tokenizer_is_named(place: str, tmp_path: Path):
    path = str(tmp_path) if place == "no folder" else place
    with pytest.raises(UserError, match="tokenizer") as caught:
        load_tokenizer(path)
    assert path in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no eos_token"):
        load_tokenizer(str(tmp_path))
