"""A model folder that needs nothing of ours: transformers runs it by `trust_remote_code=True`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.export.bundle import AUTO, bundle
from eramv_lab.export.files import ADAPTER, START
from eramv_lab.files import new_folder
from eramv_lab.model import EramvConfig, EramvProcessor
from eramv_lab.model.guard import check_folder, read_json
from eramv_lab.model.image_processing import EramvImageProcessor

COPIED = (
    *("*.safetensors", "*.safetensors.index.json", "generation_config.json"),
    *("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("README.md", "LICENSE", "recipe.yaml", f"{ADAPTER}/*"),
    *(f"{START}/*.json", f"{START}/*.safetensors"),
)
"""What goes along as it is."""
SAME_PIXELS = frozenset(
    f"{name}ImageProcessor" for name in ("Llava", "CLIP", "Siglip", "Bit", "Eramv")
)
"""Image processors whose work `EramvImageProcessor` does by the same settings, without pillow."""
AUTO_MAP = {
    "AutoConfig": f"{AUTO}.EramvConfig",
    "AutoModelForImageTextToText": f"{AUTO}.EramvForConditionalGeneration",
    "AutoProcessor": f"{AUTO}.EramvProcessor",
}


def write_standalone(folder: Path, out: Path) -> None:
    """Write the model of `folder` so that transformers and torch alone load and run it.

    `out` (new, empty, or `folder` itself) gets weights, config and processor with the code that
    they need; adapters load with plain peft, and `start/`, the model that one goes onto, stands
    alone too. Whatever goes wrong, `out` is as it was. Raises UserError for a folder that is not
    whole, for components that cannot stand alone, and where `out` holds something else.
    """
    check_folder(folder)
    files = bundle(EramvConfig.from_pretrained(folder).spec)
    plain = _json(folder / "config.json")
    texts = files | {"config.json": _text(plain | _versions(folder) | {"auto_map": AUTO_MAP})}
    if (folder / "processor_config.json").exists():
        texts |= _processor_texts(folder)
    if out.exists() and out.samefile(folder):
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
            _write(texts, Path(beside))
            if (out / START).is_dir():
                write_standalone(out / START, out / START)
            for file in Path(beside).iterdir():
                file.replace(out / file.name)
        return
    with new_folder(out) as whole:
        _write(texts, whole)
        for file in (f for pattern in COPIED for f in sorted(folder.glob(pattern)) if f.is_file()):
            target = whole / file.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
        if (whole / START).is_dir():
            write_standalone(whole / START, whole / START)


def _write(texts: Mapping[str, str], folder: Path) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _processor_texts(folder: Path) -> dict[str, str]:
    """The processor's config, with our image processor in place of one that it stands for."""
    plain = _json(folder / "processor_config.json")
    plain["auto_map"] = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
    settings = plain.get("image_processor") or {}
    if settings.get("image_processor_type") in SAME_PIXELS:
        name = EramvImageProcessor.__name__
        plain["image_processor"] = settings | {
            "image_processor_type": name,
            "auto_map": {"AutoImageProcessor": f"{AUTO}.{name}"},
        }
    texts = {"processor_config.json": _text(plain)}
    template = EramvProcessor.from_pretrained(folder).chat_template
    return texts | ({"chat_template.jinja": template} if template else {})


def _versions(folder: Path) -> dict[str, Any]:
    """Format and version of what is written now, which folders from before do not say."""
    config = EramvConfig.from_pretrained(folder)
    return {"eramv_format": config.eramv_format, "eramv_lab": config.eramv_lab}


def _json(file: Path) -> dict[str, Any]:
    problems: list[Problem] = []
    plain = read_json(file, problems)
    if plain is None:
        raise UserError(problems)
    return plain


def _text(plain: dict[str, Any]) -> str:
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
