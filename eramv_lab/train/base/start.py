"""Where the language model starts: words along the tower's classes, attention that matches.

From a usual start the look-up is not learnt within this budget. Keys near queries and outputs near
transposed values let a row find its like and copy it (Trockman and Kolter, arXiv 2305.09828).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from eramv_lab.data.world.vocabulary import IDS
from eramv_lab.train.base.language import BaseModel
from eramv_lab.train.base.recipe import LanguageRecipe
from eramv_lab.train.base.tower import LABELS, TowerHeads


@torch.no_grad()
def start(model: BaseModel, heads: TowerHeads, recipe: LanguageRecipe) -> None:
    """Set the first weights of `model`, in place, by torch's default generator."""
    connector, language = model.connector, model.language
    deep = recipe.width
    connector.linear_2.weight.mul_(0.1)
    connector.linear_2.bias.zero_()
    words_KD = nn.init.normal_(language.embed_tokens.weight, std=deep**-0.5)
    if connector.skip is not None:
        wide = connector.skip.in_features
        nn.init.orthogonal_(connector.skip.weight, gain=wide**-0.5)
        for name, words in LABELS.items():
            directions_CV = _directions(cast(nn.Linear, heads.patch[name]).weight)
            directions_CD = connector.skip(directions_CV)
            for word, direction_D in zip(words, directions_CD, strict=True):
                words_KD[IDS[word]] = direction_D / direction_D.norm()
    for layer in language.layers:
        attention = cast(LlamaDecoderLayer, layer).self_attn
        _pair(attention.q_proj.weight, attention.k_proj.weight, deep**-0.5, recipe.align_qk)
        _transpose(attention.v_proj.weight, attention.o_proj.weight, recipe)


def _directions(rows_CV: Tensor) -> Tensor:
    """Read-out rows of the classes less their mean, `none` left out."""
    rows_CV = rows_CV[1:]
    return rows_CV - rows_CV.mean(0)


def _pair(query: Tensor, key: Tensor, std: float, correlation: float) -> None:
    nn.init.normal_(query, std=std)
    nn.init.normal_(key, std=std)
    if query.shape == key.shape:  # grouped heads share no one query to be near to
        key.mul_((1 - correlation**2) ** 0.5).add_(correlation * query)


def _transpose(value: Tensor, output: Tensor, recipe: LanguageRecipe) -> None:
    nn.init.normal_(value, std=0.4 * recipe.width**-0.5)
    noise = (1 - recipe.align_vo**2) ** 0.5 * value.std()
    heads = value.unflatten(0, (recipe.kv_heads, recipe.head_dim))
    value_of_each_query = heads.repeat_interleave(recipe.heads // recipe.kv_heads, 0).flatten(0, 1)
    output.copy_(recipe.align_vo * value_of_each_query.T + noise * torch.randn_like(output))
