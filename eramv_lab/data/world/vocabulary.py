"""The closed list of words that the made world and its tiny language model speak."""

from __future__ import annotations

PAD, BOS, EOS, IMAGE, ANSWER = SPECIALS = ("<pad>", "<bos>", "<eos>", "<image>", "answer")
"""`answer` is the marker word: the answer is predicted at its row."""

COLOURS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "diamond", "cross")
DIGITS: tuple[str, ...] = tuple("0123456789")
MORE_SHAPES: tuple[str, ...] = ("thing", "object")
"""An arrow and a shield, which other worlds have: they go by words that stand in the list anyway
and that the default world never says. A tower that has learnt the six reads digits on them."""

_QUESTION_WORDS = (
    "what which how many is are there the a an in of on or and not "
    "digit color shape greater smaller object objects thing things "
    "left right above below from to same as than more fewer between next "
    "yes no none both nothing"
)

WORDS: tuple[str, ...] = (*SPECIALS, *COLOURS, *SHAPES, *DIGITS, *_QUESTION_WORDS.split())
"""Every word, in the order of its id; the specials come first."""

IDS: dict[str, int] = {word: number for number, word in enumerate(WORDS)}


def encode(text: str) -> list[int]:
    """Ids of the words of `text`, which blanks separate. Raises KeyError for an unknown word."""
    return [IDS[word] for word in text.split()]
