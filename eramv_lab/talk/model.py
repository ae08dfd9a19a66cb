"""A model by folder, study or hub id, with its processor, and an adapter on it."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from eramv_lab.errors import LabError, Problem, UserError, nearest
from eramv_lab.model import EramvForConditionalGeneration, EramvProcessor
from eramv_lab.model.guard import check_folder
from eramv_lab.talk.talker import Talker

DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""`auto`: as the weights are stored."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""What an adapter's folder must hold."""
TROUBLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)
"""What transformers and peft raise for folders that they cannot load."""


def load(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str | None = None,
    runs: Path = Path("runs"),
    processor: Any = None,
) -> Talker:
    """The model of a folder, a study with one fit, or a hub id, ready to be asked.

    `adapter`: a folder or hub id of a peft adapter to lay on it. `device`: `auto` (a GPU where
    there is one), `cpu`, `cuda`, `cuda:1`. `attn_implementation`: as in transformers.
    `processor`: where it is loaded already. Weights are read from safetensors alone and no code of
    the folder runs. Raises UserError.
    """
    if dtype not in DTYPES:
        raise UserError(Problem(message=f"there is no dtype {dtype!r}", allowed=tuple(DTYPES)))
    where, place = device_of(device), find(model, runs)
    processor = load_processor(place) if processor is None else processor
    with _told(f"{place}: the model cannot be loaded"):
        net: Any = EramvForConditionalGeneration.from_pretrained(
            place,
            dtype=DTYPES[dtype],
            attn_implementation=attn_implementation,
            use_safetensors=True,
        )
    if adapter is not None:
        net = _with_adapter(net, str(adapter))
    try:
        return Talker(net.to(where), processor)
    except torch.OutOfMemoryError:
        raise LabError(f"{where} has too little memory for {place}; try --dtype bfloat16") from None


def load_processor(place: str) -> Any:
    """The processor of a place that `find` gave. Raises UserError, of a broken model too."""
    if Path(place).is_dir():
        check_folder(Path(place))
    with _told(f"{place}: the processor cannot be loaded"):
        return EramvProcessor.from_pretrained(place)


def find(model: str | Path, runs: Path) -> str:
    """The folder or hub id that `model` names: itself, or the one fit of a study.

    Raises UserError where there is none, or several.
    """
    wanted = Path(model).expanduser()
    folders = [folder for folder in (wanted, runs / model) if folder.is_dir()]
    for folder in folders:
        if _is_model(folder):
            return str(folder)
        fits = sorted(below for below in folder.iterdir() if _is_model(below))
        if len(fits) == 1:
            return str(fits[0])
        if fits:
            message = f"{model} holds {len(fits)} models, name one of them"
            raise UserError(Problem(message=message, allowed=tuple(map(str, fits))))
    for folder in folders:
        if (folder / ADAPTER[0]).is_file():
            raise UserError(f"{folder} is an adapter: name its model, and --adapter {folder}")
        raise UserError(f"{folder} holds no model: no config.json in it or in a folder below")
    if HUB_ID.fullmatch(str(model)) and not wanted.is_absolute():
        return str(model)
    studies = [path.name for path in runs.iterdir()] if runs.is_dir() else []
    raise UserError(
        Problem(
            message=f"{model} is no folder here, no study in {runs}, and no hub id (owner/name)",
            nearest=nearest(str(model), studies),
        )
    )


def device_of(name: str) -> torch.device:
    """The device of a name. Raises UserError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(
            Problem(message=f"there is no device {name!r}", allowed=("auto", "cpu", "cuda"))
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name}: torch sees {torch.cuda.device_count()} GPUs here")
    return device


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "model.safetensors").is_file()


def _with_adapter(net: Any, adapter: str) -> Any:
    """The model with the adapter's layers in it. Raises UserError where they do not fit."""
    from peft import PeftModel

    folder = _adapter_folder(adapter)
    with _told(f"{adapter}: the adapter cannot be laid on this model"):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            laid: Any = PeftModel.from_pretrained(net, str(folder))
        lacking = [str(w.message) for w in heard if "missing adapter keys" in str(w.message)]
        if lacking:
            raise ValueError(lacking[0])
        if laid.active_peft_config.is_prompt_learning:
            raise ValueError(f"{laid.active_peft_config.peft_type.value} puts words in front")
    return laid.get_base_model()


def _adapter_folder(adapter: str) -> Path:
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        if not HUB_ID.fullmatch(adapter):
            raise UserError(f"--adapter {adapter} is no folder here and no hub id (owner/name)")
        from huggingface_hub import snapshot_download

        with _told(f"{adapter}: the hub gave no adapter"):
            folder = Path(snapshot_download(adapter, allow_patterns=list(ADAPTER)))
    missing = [name for name in ADAPTER if not (folder / name).is_file()]
    if missing:
        pickles = [f.name for f in folder.glob("adapter_model.*") if f.suffix != ".safetensors"]
        more = f"; {', '.join(pickles)} is a pickle, which is never read" * bool(pickles)
        raise UserError(
            [Problem(message=f"is missing{more}", file=str(folder / name)) for name in missing]
        )
    return folder


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What goes wrong inside is one line: `what`, and why. Bars are shown in a terminal alone."""
    bars = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    except LabError:
        raise
    except TROUBLE as error:
        first = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise UserError(f"{what}: {first}") from None
    finally:
        if bars:
            logging.enable_progress_bar()
