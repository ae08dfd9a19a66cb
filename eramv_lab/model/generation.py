"""What `generate` must know of images: when they go in, how beams repeat them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin

from eramv_lab.model.arrange import prompt_end, refuse_images

_Mixin: Any = GenerationMixin  # its own types expect the whole model
IMAGE_INPUTS = (
    "pixel_values",
    "vision_features",
    "image_counts",
    "question_ids",
    "question_mask",
)


def _seen(past: Any) -> int:
    return 0 if past is None else int(past.get_seq_length())


class EramvGeneration(_Mixin):
    """transformers' generation for a model that takes images with its first rows."""

    config: Any
    visual_rows: int
    events: Any

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As in transformers; image inputs are those of `forward`."""
        counts = kwargs.get("image_counts")
        if counts and isinstance(counts[0], list | tuple):  # a pipeline's batch is a list of inputs
            kwargs["image_counts"] = tuple(count for one in counts for count in one)
        ids = kwargs.get("input_ids") if inputs is None else inputs
        seen = _seen(kwargs.get("past_key_values"))
        if seen and isinstance(ids, Tensor):
            refuse_images(bool((ids[:, seen:] == self.config.image_token_id).any()))
        ranked = any(event.looks for event in self.events)
        if ranked and isinstance(ids, Tensor) and kwargs.get("prompt_end") is None:
            # fixed now: without a cache, the last row of a later step is an answer's
            mask = kwargs.get("attention_mask")
            kwargs["prompt_end"] = prompt_end(
                None, None, None if mask is None else mask.bool(), ids
            )
        return super().generate(inputs, **kwargs)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Images go in with the first rows only, or every time where nothing is cached."""
        images = {name: kwargs.pop(name, None) for name in (*IMAGE_INPUTS, "prompt_end")}
        model_inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[arg-type]
        if not _seen(model_inputs.get("past_key_values")):
            model_inputs |= {k: v for k, v in images.items() if v is not None}
        return model_inputs

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Hand the 2-D mask on: masks are made per stage."""
        return attention_mask

    def _expand_inputs_for_generation(  # type: ignore[override]
        self, expand_size: int = 1, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Beams: each sample's images are repeated with it, in order."""
        images: dict[str, Any] = {}
        if expand_size > 1 and input_ids is not None:
            visual = (input_ids == self.config.image_token_id).sum(dim=1)
            counts = kwargs.pop("image_counts", None) or (visual // self.visual_rows).tolist()
            order: list[int] = []
            for count in counts:
                start = len(order) // expand_size
                order += list(range(start, start + count)) * expand_size
            images["image_counts"] = tuple(c for c in counts for _ in range(expand_size))
            index = torch.tensor(order, dtype=torch.long, device=input_ids.device)
            pixels, features = kwargs.pop("pixel_values", None), kwargs.pop("vision_features", None)
            if pixels is not None:
                images["pixel_values"] = pixels[index]
            if features is not None:
                images["vision_features"] = {k: v[index] for k, v in features.items()}
        input_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size,
            input_ids=input_ids,  # type: ignore[arg-type]
            **kwargs,
        )
        return input_ids, kwargs | images
