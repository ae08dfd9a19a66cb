"""How text becomes ids: the made world's list of words, or a language model's own tokenizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eramv_lab.data.world import vocabulary
from eramv_lab.data.world.vocabulary import BOS, EOS, IDS, IMAGE, PAD, WORDS
from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.slots.language.tokens import (
    as_text,
    front_of,
    has_tokenizer,
    image_token,
    load_tokenizer,
    special_texts,
)
from eramv_lab.slots.prompts.chat import chat_frames
from eramv_lab.slots.prompts.pieces import LEARNT, Frame, Kind, Piece


class Encoded(NamedTuple):
    """Ids of a conversation, one for each image, and which of them are learnt."""

    ids: list[int]
    learnt: list[bool]


class Words(ABC):
    """What the batches and the answers need to know of a vocabulary; it can be pickled."""

    image: int
    """Stands for one row of an image; never generated, never learnt."""
    pad: int
    eos: int
    stops: tuple[int, ...]
    """Ids of which any ends an answer."""
    front: tuple[int, ...]
    """Ids in front of every text."""

    @abstractmethod
    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Ids of a conversation, `front` included. Raises UserError for text it cannot write."""

    @abstractmethod
    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer, special tokens left out."""

    @abstractmethod
    def chat(self, turns: int) -> Sequence[Frame]:
        """Frames of the chat template. Raises UserError where there is none."""


@dataclass(frozen=True)
class WorldWords(Words):
    """The made world's closed list of words, which blanks separate."""

    image: int = IDS[IMAGE]
    pad: int = IDS[PAD]
    eos: int = IDS[EOS]
    stops: tuple[int, ...] = (IDS[EOS],)
    front: tuple[int, ...] = (IDS[BOS],)

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Ids of the pieces, word by word. Raises UserError for a word that is not in the list."""
        found = Encoded(list(self.front), [False] * len(self.front))
        for kind, text in pieces:
            if kind is Kind.IMAGE:
                ids = [self.image]
            elif kind is Kind.EOS:
                ids = [self.eos]
            else:
                ids = _world_ids(text)
            found.ids.extend(ids)
            found.learnt.extend([kind in LEARNT] * len(ids))
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Words of ids; an id that is none is written `<id>`."""
        return " ".join(WORDS[i] if i < len(WORDS) else f"<{i}>" for i in ids)

    def chat(self, turns: int) -> Sequence[Frame]:
        """Raises UserError: the list of words has no chat template."""
        raise UserError(_NEEDS.format("a chat template"))


_NEEDS = (
    "the made world's words have not {}: set language.path, whose tokenizer is then used, or start "
    "from a model that has one"
)


def _world_ids(text: str) -> list[int]:
    if IMAGE not in text:
        try:
            return vocabulary.encode(text)
        except KeyError:
            pass
    unknown = next(word for word in text.split() if word not in IDS or word == IMAGE)
    raise UserError(_NEEDS.format(repr(unknown)))


@dataclass(frozen=True, eq=False)
class TokenizerWords(Words):
    """A tokenizer: a conversation is one string to it, read once.

    An id is learnt where it begins in a learnt piece. What looks like a special
    token in a question or an answer is broken by a blank.
    """

    tokenizer: Any
    image: int
    pad: int
    eos: int
    stops: tuple[int, ...]
    front: tuple[int, ...]
    image_text: str
    special: tuple[str, ...]
    frames: dict[int, Sequence[Frame]] = field(default_factory=dict[int, Sequence[Frame]])
    """Frames of the chat template, by number of turns, as they were asked for."""

    @classmethod
    def of(cls, tokenizer: Any, *, vocab: int, chat: bool = False) -> TokenizerWords:
        """The words of a fast tokenizer, for a model of so many; `chat`: turns are a template's.

        The tokenizer gets an image token where it has none. Raises UserError for a chat without a
        template.
        """
        image = image_token(tokenizer)
        eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        frames: dict[int, Sequence[Frame]] = {}
        stops = [eos]
        if chat:
            frames[1] = chat_frames(tokenizer, 1)
            if not frames[1][0].eos:
                end = tokenizer.backend_tokenizer.encode(frames[1][0].end, add_special_tokens=False)
                stops += [end.ids[-1]] if end.ids[-1] != eos else []
        return cls(
            tokenizer=tokenizer,
            image=tokenizer.convert_tokens_to_ids(image),
            pad=eos if pad is None or pad >= vocab else pad,
            eos=eos,
            stops=tuple(stops),
            front=front_of(tokenizer),
            image_text=image,
            special=special_texts(tokenizer),
            frames=frames,
        )

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Ids of the pieces as one string."""
        text, ends, starts = "", list[tuple[int, bool]](), list[int]()
        for piece in pieces:
            kept = piece.kind in LEARNT
            if kept and not (ends and ends[-1][1]):
                starts.append(len(text))
            text += self._write(piece)
            ends.append((len(text), kept))
        ids, learnt, number = list[int](), list[bool](), 0
        for token, place in self._read(text, starts):
            while place >= ends[number][0] and number < len(ends) - 1:
                number += 1
            ids.append(token)
            learnt.append(ends[number][1])
        front = len(self.front)
        if tuple(ids[:front]) != self.front:
            ids, learnt = [*self.front, *ids], [False] * front + learnt
        return Encoded(ids, learnt)

    def text(self, ids: Sequence[int]) -> str:
        """The decoded text, blanks around it left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def chat(self, turns: int) -> Sequence[Frame]:
        """The template's frames, made once for each number of turns."""
        if turns not in self.frames:
            self.frames[turns] = chat_frames(self.tokenizer, turns)
        return self.frames[turns]

    def _write(self, piece: Piece) -> str:
        if piece.kind is Kind.IMAGE:
            return self.image_text
        if piece.kind is Kind.EOS:
            return self.tokenizer.eos_token
        if piece.kind in (Kind.QUESTION, Kind.ANSWER):
            return as_text(piece.text, self.special)
        return piece.text

    def _read(self, text: str, starts: Sequence[int]) -> list[tuple[int, int]]:
        """Ids and where each begins.

        No token reaches over the start of an answer: a prompt has to be what training saw.
        """
        read = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        for number, start in enumerate(starts):
            if 0 < start < len(text):
                left, right = read.char_to_token(start - 1), read.char_to_token(start)
                if left is not None and left == right:
                    rest = [later - start for later in starts[number + 1 :]]
                    after = self._read(text[start:], rest)
                    earlier = self._read(text[:start], starts[:number])
                    return earlier + [(token, place + start) for token, place in after]
        return [(token, start) for token, (start, _) in zip(read.ids, read.offsets, strict=True)]


def begun_from(start: Mapping[str, str] | None) -> str | None:
    """The model folder that a plan's `start` names; None for a base and for nothing."""
    return start.get("arm") or start.get("model") if start else None


def words_of(spec: ModelSpec, start: str | None = None) -> Words:
    """How text becomes ids for the spec's language model.

    Its own tokenizer where `language.path` is set; else that of the model it starts from, `start`,
    where it could have had a path and there is one; else the made world's words. Raises UserError
    where there is no tokenizer, or one that does not fit the model or the prompt's template.
    """
    path, vocab = getattr(spec.language, "path", None), spec.language.dims().vocab
    template = spec.prompt.template
    tokenizer = None
    if path is not None:
        tokenizer = load_tokenizer(path)
    elif start and hasattr(spec.language, "path") and has_tokenizer(start):
        tokenizer = load_tokenizer(start)
        if tokenizer.get_vocab() == IDS:  # it has learnt in the made world
            tokenizer = None
    if tokenizer is None:
        if template in ("vicuna", "chat"):
            what = f"what template {template} writes"
            raise UserError(Problem(message=_NEEDS.format(what), key="model.prompt.template"))
        if vocab < len(WORDS):
            message = f"{vocab} words are fewer than the made world's {len(WORDS)}"
            raise UserError(Problem(message=message, key="model.language"))
        return WorldWords()
    if tokenizer.vocab_size > vocab:
        message = (
            f"{path or start}: the tokenizer has {tokenizer.vocab_size} words, the model {vocab}"
        )
        raise UserError(Problem(message=message, key="model.language"))
    return TokenizerWords.of(tokenizer, vocab=vocab, chat=template == "chat")
