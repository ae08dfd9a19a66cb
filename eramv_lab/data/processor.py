"""Words and pixels of a fit as transformers' processors, for a model let go."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from eramv_lab.data.pixels import Pixels
from eramv_lab.data.words import TokenizerWords, Words, WorldWords
from eramv_lab.data.world.vocabulary import BOS, EOS, IDS, IMAGE, PAD
from eramv_lab.model import EramvProcessor
from eramv_lab.recipe.model_spec import ModelSpec


def processor_of(spec: ModelSpec, words: Words, pixels: Pixels) -> EramvProcessor:
    """What writes the inputs of a finished model; saved in its folder, it stands beside it.

    Its `write` and call give the ids that `Collator.prompts` gives, and the pixels of `pixels`.
    """
    # a copy: whoever pads with it leaves the words as they are
    own = deepcopy(words.tokenizer) if isinstance(words, TokenizerWords) else world_tokenizer()
    return EramvProcessor.for_spec(spec, image_processor(pixels), own)


def world_processor(spec: ModelSpec) -> EramvProcessor:
    """What writes a model's inputs where it has learnt in the made world."""
    return processor_of(spec, WorldWords(), Pixels.of(spec.vision))


def world_tokenizer() -> Any:
    """The closed list of words as a transformers tokenizer: `<bos>` in front, ids as in the data.

    It raises an exception for a word that the made world has not.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(IDS, unk_token="no such word"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    words.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{BOS} $A", special_tokens=[(BOS, IDS[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=[IMAGE],
    )


def image_processor(pixels: Pixels) -> Any:
    """Size, scale and square of `pixels` as transformers' image processor.

    The same numbers for images that are square or padded; another shape that is cropped is cut
    after its resizing and not before, which moves the cut by up to a pixel.
    """
    from transformers import AutoImageProcessor
    from transformers.models.clip import CLIPImageProcessorPil
    from transformers.models.llava import LlavaImageProcessorPil

    if pixels.square == "processor":
        return AutoImageProcessor.from_pretrained(pixels.path, backend="pil")
    settings: Any = {
        "size": {"shortest_edge": pixels.size},
        "crop_size": {"height": pixels.size, "width": pixels.size},
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
        "do_convert_rgb": True,
    }
    if pixels.square == "pad":
        return LlavaImageProcessorPil(do_pad=True, **settings)
    return CLIPImageProcessorPil(**settings)
