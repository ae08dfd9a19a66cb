"""The processor of a converted model, made of the checkpoint's own; and back."""

from __future__ import annotations

from typing import Any

from eramv_lab.errors import UserError
from eramv_lab.model.convert.checkpoint import Checkpoint
from eramv_lab.model.processing import EramvProcessor
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.recipe.parse import to_plain
from eramv_lab.registry import PROMPT
from eramv_lab.slots.language.tokens import image_token

FILES = ("processor_config.json", "preprocessor_config.json")
TOKENS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def llava_processor(checkpoint: Checkpoint) -> Any:
    """The checkpoint's own processor; None where it has none. Raises UserError for a broken one."""
    folder = checkpoint.folder
    if folder is None or not any((folder / name).exists() for name in (*FILES, *TOKENS)):
        return None
    from transformers import AutoProcessor

    try:
        processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # every kind of processor fails in a way of its own
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{checkpoint.name}: its processor cannot be loaded: {first}") from None
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise UserError(f"{checkpoint.name}: its processor has no image processor and tokenizer")
    return processor


def has_chat(processor: Any) -> bool:
    """Whether a checkpoint's processor, or its tokenizer, has a chat template."""
    return processor is not None and bool(
        processor.chat_template or processor.tokenizer.chat_template
    )


def our_processor(processor: Any, spec: ModelSpec, image_token_id: int) -> EramvProcessor:
    """Ours with the parts of a LLaVA's, its chat template among them.

    Raises UserError where its tokenizer calls another token an image than the config.
    """
    tokenizer = processor.tokenizer
    token = image_token(tokenizer)
    if tokenizer.convert_tokens_to_ids(token) != image_token_id:
        found = tokenizer.convert_ids_to_tokens(image_token_id)
        raise UserError(
            f"image_token_index is {image_token_id}, which is {found!r} in the tokenizer; its "
            f"image token is {token!r}, {tokenizer.convert_tokens_to_ids(token)}"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return EramvProcessor(
        processor.image_processor,
        tokenizer,
        visual_rows=max(spec.dims().visual, 1),
        prompt=to_plain(spec.prompt, PROMPT),
        chat_template=processor.chat_template,
    )


def their_processor(processor: EramvProcessor, spec: ModelSpec) -> Any:
    """transformers' LlavaProcessor with the parts of ours."""
    from transformers import LlavaProcessor

    cls = spec.vision.dims().has_cls
    return LlavaProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=spec.vision.hf()["patch_size"],
        vision_feature_select_strategy="default" if cls and not spec.anchors.cls else "full",
        num_additional_image_tokens=int(cls),
        chat_template=processor.chat_template,
        image_token=image_token(processor.tokenizer),
    )
