"""The YAML on top of a card, by the hub's conventions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eramv_lab.evaluate.statistics import Estimate


def metadata(
    name: str, recipe: Mapping[str, Any], rates: Iterable[tuple[str, Estimate]]
) -> dict[str, Any]:
    """Licence, tags and `model-index` (an accuracy for each of `rates`) of a resolved recipe.

    A model that was made from pretrained parts is under their licences, which are not known here.
    """
    from huggingface_hub import EvalResult, ModelCardData

    data, parts = recipe.get("data") or {}, pretrained(recipe)
    source = str(data.get("type", "data"))
    made = source == "world"

    def result(kind: str, found: Estimate) -> EvalResult:
        return EvalResult(
            task_type="image-text-to-text",
            task_name="Visual question answering",
            dataset_type=f"eramv_lab/{source}",
            dataset_name="the made world" if made else source,
            dataset_split=str((recipe.get("evaluate") or {}).get("split", "test")),
            metric_type="accuracy",
            metric_name=kind,
            metric_value=round(found.mean, 4),
            metric_args={"low": round(found.low, 4), "high": round(found.high, 4), "n": found.n},
        )

    card = ModelCardData(
        language="en",
        license="other" if parts else "apache-2.0",
        license_name="that-of-its-parts" if parts else None,
        base_model=[name for name in parts if not Path(name).is_dir()] or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["eramv", "eramv_lab", "vision-language", *(["synthetic"] if made else [])],
        metrics=["accuracy"],
        model_name=name,
        eval_results=[result(kind, found) for kind, found in rates],
    )
    return card.to_dict()


def pretrained(recipe: Mapping[str, Any]) -> list[str]:
    """The checkpoints that the model or parts of it came from, as the recipe names them."""
    model, base = recipe.get("model") or {}, recipe.get("base") or {}
    parts = (model.get(slot) for slot in ("vision", "language"))
    paths = [part.get("path") for part in parts if isinstance(part, Mapping)]
    paths.append(base.get("model"))
    return [str(path) for path in paths if path not in (None, "none")]
