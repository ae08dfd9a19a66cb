"""`from_pretrained` that looks first: what is not whole is refused, nothing is drawn at random."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from eramv_lab.errors import Problem, UserError
from eramv_lab.model.guard import check_folder, check_loaded, check_processor

_Model: Any = PreTrainedModel


class EramvLoading(_Model):
    """transformers' loading for a model whose every weight has to be in its folder."""

    config: Any
    spec: Any
    dims: Any

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers, from safetensors alone.

        Raises UserError naming the file and the reason for a folder (or hub id) that is missing,
        corrupt, cut off, pickled, of a newer format, or whose config does not fit its tensors;
        other shapes pass with `ignore_mismatched_sizes`.
        """
        place = pretrained_model_name_or_path
        if kwargs.pop("use_safetensors", True) is False:
            raise UserError(f"{place}: pickles are never read; leave use_safetensors as it is")
        wants_info = kwargs.pop("output_loading_info", False)
        mismatched = bool(kwargs.pop("ignore_mismatched_sizes", False))
        with _told(place), _quiet(not mismatched):
            if place is not None and (folder := _folder(place, kwargs)).is_dir():
                check_folder(folder, kwargs.get("variant"))
            model, info = super().from_pretrained(
                place,
                *args,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below
                **kwargs,
            )
            quantised = getattr(model, "hf_quantizer", None) is not None
            check_loaded(info, str(place), mismatched=mismatched, extra=quantised)
        return (model, info) if wants_info else model

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; the slots follow, so that what is saved is loaded again."""
        embedding = super().resize_token_embeddings(*args, **kwargs)
        slots = copy.deepcopy(self.config.slots)
        language = slots["language"]
        where, key = (
            (language["config"], "vocab_size") if "config" in language else (language, "vocab")
        )
        where[key] = embedding.weight.shape[0]
        self.config.slots = slots
        self.spec = self.config.spec
        self.dims = self.spec.dims()
        return embedding


class ProcessorLoading:
    """The same for a processor: broken files are told by name."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. Raises UserError naming the file that is missing or broken."""
        place = pretrained_model_name_or_path
        with _told(place):
            if (folder := _folder(place, kwargs)).is_dir():
                check_processor(folder)
            return super().from_pretrained(place, *args, **kwargs)  # type: ignore[misc]


def _folder(place: Any, kwargs: dict[str, Any]) -> Path:
    return Path(place) / (kwargs.get("subfolder") or "")


@contextmanager
def _quiet(on: bool) -> Iterator[None]:
    """Without transformers' table of what did not fit, where it is refused anyway."""
    log = logging.getLogger("transformers.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    if on:
        log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)


@contextmanager
def _told(place: Any) -> Iterator[None]:
    """What goes wrong inside becomes a UserError that names the place."""
    try:
        yield
    except UserError as error:
        named = [p if p.file else dataclasses.replace(p, file=str(place)) for p in error.problems]
        raise UserError(named) from None
    except HFValidationError:
        message = "is no folder here, and no name that the hub could have"
        raise UserError(Problem(message=message, file=str(place))) from None
    except (OSError, SafetensorError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(Problem(message=f"cannot be loaded: {first}", file=str(place))) from None
