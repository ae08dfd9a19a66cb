"""A language model's own tokenizer: loading it, its image token, which texts are tokens in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eramv_lab.errors import UserError
from eramv_lab.slots.hub import place_of

IMAGE = "<image>"
"""Where an image stands, as users write it."""
PLACEHOLDERS = (IMAGE, "<|image_pad|>", "<image_soft_token>", "<|image|>", "[IMG]")
"""Tokens that stand for an image in tokenizers that know one, the first that is there."""


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a folder or hub id; no code of it runs.

    Raises UserError naming `path` where there is none, or none that can tell where each token
    stands in the text (a `tokenizer.json`, or files that one can be made of).
    """
    from transformers import AutoTokenizer

    place = place_of(path)
    if not has_tokenizer(place):
        raise UserError(f"{path} has no tokenizer: expected a tokenizer.json beside config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # every kind of tokenizer fails in a way of its own
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{path}: the tokenizer cannot be loaded: {first}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{path}: the tokenizer is a slow one; a tokenizer.json is needed")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: the tokenizer has no eos_token, so no answer could end")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a tokenizer.json may ask for both
    backend.no_padding()
    return tokenizer


def has_tokenizer(place: str) -> bool:
    """Whether a folder holds a tokenizer; a hub id is believed to."""
    folder = Path(place)
    return not folder.is_dir() or any(folder.glob("tokenizer*")) or any(folder.glob("vocab*"))


def image_token(tokenizer: Any) -> str:
    """The token that stands for one row of an image; `<image>` is added where there is none."""
    known = tokenizer.get_added_vocab()
    for text in PLACEHOLDERS:
        if text in known:
            return text
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    return IMAGE


def special_texts(tokenizer: Any) -> tuple[str, ...]:
    """Texts that the tokenizer would take for special tokens, and `<image>`."""
    added = (t.content for t in tokenizer.added_tokens_decoder.values() if t.special)
    return tuple(sorted({IMAGE, image_token(tokenizer), *added}))


def as_text(text: str, special: Iterable[str]) -> str:
    """`text` with a blank inside whatever looks like a special token, so that it is none."""
    for token in special:
        if len(token) > 1 and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def front_of(tokenizer: Any) -> tuple[int, ...]:
    """Ids that the tokenizer itself puts in front of every text (its BOS, or nothing)."""
    backend = tokenizer.backend_tokenizer
    bare: list[int] = backend.encode("a", add_special_tokens=False).ids
    whole: list[int] = backend.encode("a", add_special_tokens=True).ids
    starts = range(len(whole) - len(bare) + 1)
    start = next((n for n in starts if whole[n : n + len(bare)] == bare), 0)
    return tuple(whole[:start])
