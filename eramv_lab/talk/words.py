"""Words that a tokenizer cannot write: the made world's list of them is a closed one."""

from __future__ import annotations

import difflib
from typing import Any

from eramv_lab.errors import Problem

NEAREST = 3
"""Words that a message proposes."""
FEW = 100
"""A list of at most so many words is told in full where none is near."""


def unknown_words(tokenizer: Any, text: str) -> list[Problem]:
    """A problem for each word of `text` that the tokenizer does not know, none where it reads all.

    Only tokenizers of a closed list of words refuse any; others write every text.
    """
    if _reads(tokenizer, text):
        return []
    special = set(tokenizer.all_special_tokens)
    known = sorted(word for word in tokenizer.get_vocab() if word not in special)
    unknown = [word for word in dict.fromkeys(text.split()) if not _reads(tokenizer, word)]
    told = tuple(known) if len(known) <= FEW else ()
    problems: list[Problem] = []
    for word in unknown:
        near = _near(word, known)
        message = f"the model does not know the word {word!r}"
        problems.append(Problem(message=message, nearest=near, allowed=() if near else told))
        told = told if near else ()  # once is enough
    return problems or [Problem(message=f"the model's tokenizer cannot read {text!r}")]


def _near(word: str, known: list[str]) -> str | None:
    plain = word.lower().strip("?!.,;:'\"")
    if plain in known:
        return plain
    return ", ".join(difflib.get_close_matches(plain, known, n=NEAREST, cutoff=0.6)) or None


def _reads(tokenizer: Any, text: str) -> bool:
    try:
        tokenizer(text)
    except Exception:  # tokenizers raises no class of its own
        return False
    return True
