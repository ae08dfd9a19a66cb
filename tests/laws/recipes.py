"""The recipes of experiments/systems as tiny models, and the pieces of a plain reading of them.

Every key of a recipe is taken as it stands, so that a claim which a test holds is the recipe's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from eramv_lab.recipe.load import read_recipe
from eramv_lab.recipe.nodes import to_data
from laws.settings import LANGUAGES, TINY, with_keys
from laws.whole import IMAGE, model_of

SYSTEMS = Path(__file__).parents[2] / "experiments" / "systems"
VISION = TINY["vision"] | {"image": 48}
"""Six by six patches: whole windows of two by two, and of three by three."""
Step = Callable[[int, Tensor], Tensor]


def section_of_recipe(name: str, family: str = "llama", layers: int = 8) -> dict[str, Any]:
    """The model of a recipe, its own tower and language model apart."""
    section = to_data(read_recipe(SYSTEMS / f"{name}.yaml").shared)["model"]
    language = {"type": "hf", "config": LANGUAGES[family] | {"num_hidden_layers": layers}}
    return section | {"vision": VISION, "language": language}


def model_of_recipe(name: str, loud: bool = True, **changes: Any) -> Any:
    """The tiny model, its weights away from their start if it is `loud`."""
    return model_of(with_keys(section_of_recipe(name), **changes), loud=loud)


def plain_of(model: Any) -> Any:
    """transformers' own language model, on the same weights."""
    config = AutoConfig.for_model(**model.spec.language.hf(), attn_implementation="eager")
    plain: Any = AutoModel.from_config(config).eval()
    plain.load_state_dict(model.language_model.state_dict(), strict=False)  # all but the band
    return plain


def places(ids: Tensor, rows: int) -> Tensor:
    """[S] positions where the `rows` rows of an image share one."""
    visual_S = ids == IMAGE
    first_S = visual_S & ((visual_S.long().cumsum(0) - 1) % rows == 0)
    return (first_S | ~visual_S).long().cumsum(0) - 1


def unchanged(_: int, rows_SD: Tensor) -> Tensor:
    """The step of a model that has none."""
    return rows_SD


def through(
    model: Any,
    hidden_SD: Tensor,
    place_S: Tensor,
    before: Step = unchanged,
    after: Step = unchanged,
) -> Tensor:
    """Logits [S,V] of rows in transformers' layers, with a step before or after their attention."""
    plain = plain_of(model)
    rope = plain.rotary_emb(hidden_SD[None], place_S[None])
    mask = torch.full((1, 1, len(place_S), len(place_S)), torch.finfo().min).triu(1)
    for i, layer in enumerate(plain.layers):
        hidden_SD = before(i, hidden_SD)
        normed_1SD = layer.input_layernorm(hidden_SD)[None]
        attended = layer.self_attn(normed_1SD, position_embeddings=rope, attention_mask=mask)[0]
        hidden_SD = after(i, hidden_SD + attended[0])
        hidden_SD = hidden_SD + layer.mlp(layer.post_attention_layernorm(hidden_SD))
    return model.lm_head(plain.norm(hidden_SD))


def split(rows_SE: Tensor, heads: int) -> Tensor:
    """[H,S,d] of [S,H*d]."""
    return rows_SE.unflatten(1, (heads, -1)).transpose(0, 1)


def attention(query_HSd: Tensor, key_GMd: Tensor, value_GMd: Tensor, sees_SM: Tensor) -> Tensor:
    """[S,H*d] softmax attention of each row to what it sees, zero where that is nothing."""
    groups = len(query_HSd) // len(key_GMd)
    key_HMd, value_HMd = (one.repeat_interleave(groups, 0) for one in (key_GMd, value_GMd))
    logits = query_HSd @ key_HMd.transpose(1, 2) * query_HSd.shape[2] ** -0.5
    weights = logits.masked_fill(~sees_SM, -torch.inf).softmax(-1).nan_to_num()
    return (weights @ value_HMd).transpose(0, 1).flatten(1)
