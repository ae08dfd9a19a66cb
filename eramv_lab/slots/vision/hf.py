"""`hf`: a vision tower of transformers (CLIP, SigLIP, DINOv2), by folder, hub id or config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eramv_lab.recipe.parse import WEIGHTLESS
from eramv_lab.registry import VISION
from eramv_lab.shapes import Dims, Op, Projection, VisionDims, attention, linear
from eramv_lab.slots.contracts import Need, Patches
from eramv_lab.slots.hub import config_of, shape_of
from eramv_lab.slots.vision._layers import attention_of, heard, merged, norms_of
from eramv_lab.slots.vision._merge import Merging, check_merge, match_op, merges, rows_left
from eramv_lab.slots.vision._shared import cls_logits

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

SIZES = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224}
DEFAULTS: dict[str, dict[str, int]] = {
    "clip_vision_model": SIZES | {"patch_size": 32, "intermediate_size": 3072},
    "siglip_vision_model": SIZES | {"patch_size": 16, "intermediate_size": 3072},
    "dinov2": SIZES | {"patch_size": 14, "mlp_ratio": 4},
}
"""Sizes by family, as transformers has them: a config.json leaves out those that are its own."""


@dataclass(frozen=True, kw_only=True)
class HfVisionConfig:
    """A CLIP, SigLIP or DINOv2 tower by AutoModel; only the layers up to the features run."""

    path: str | None = None
    """Folder or hub id that holds config.json and the weights."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """A transformers config as plain data, where there is no path: random weights."""
    feature_layer: int = -2
    """Which entry of `hidden_states` the features are (-1 is the last layer's output)."""
    merge: tuple[int, ...] | int | None = field(default=None, metadata=WEIGHTLESS)
    """Merge similar patches in every layer (ToMe): how many are left in the end, or how many pairs
    merge in each layer that runs; `none`: no merging."""

    def hf(self) -> Mapping[str, Any]:
        """The transformers config, plain, its sizes written out."""
        plain = config_of(self.path, self.config, "vision_config")
        return {**DEFAULTS.get(str(plain.get("model_type")), {}), **plain}

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: families we do not run, missing sizes, a layer that is not there."""
        plain = self.hf()
        wrong = list(check_tower(plain))
        yield from wrong
        if not wrong and not -plain["num_hidden_layers"] <= self.feature_layer <= -1:
            yield (
                f"feature_layer {self.feature_layer}: expected -1 to -{plain['num_hidden_layers']}"
            )
        elif not wrong:
            yield from check_merge(self.merge, self.patches, self.dims(), spec)

    @property
    def patches(self) -> int:
        """Patches that enter the first layer."""
        plain = self.hf()
        return (plain["image_size"] // plain["patch_size"]) ** 2

    def dims(self) -> VisionDims:
        """Sizes of the tower, up to the features."""
        plain = self.hf()
        if list(check_tower(plain)):
            return VisionDims(  # a stand-in: `check` reports what is wrong with this config
                image=1, grid=(1, 1), width=1, heads=1, ffn=1, layers=1, has_cls=True
            )
        width, side = plain["hidden_size"], plain["image_size"] // plain["patch_size"]
        layers = plain["num_hidden_layers"] + 1 + self.feature_layer
        left = rows_left(self.merge, side * side, layers)[-1]
        return VisionDims(
            image=plain["image_size"],
            grid=(side, side) if self.merge is None else (1, max(left, 1)),
            merged=self.merge is not None,
            width=width,
            heads=plain["num_attention_heads"],
            ffn=_ffn(plain),
            layers=layers,
            has_cls=plain["model_type"] != "siglip_vision_model",
        )

    def ops(self, need: Need = Need.NONE) -> list[Op]:
        """Patch embedding, the layers up to the features, and what is asked for beside them.

        The logits of CLS are those of the last block: the layers up to it run, then its queries
        and keys.
        """
        dims, plain = self.dims(), self.hf()
        cls, width = int(dims.has_cls), dims.width
        patch = 3 * plain["patch_size"] ** 2

        def op(kind: Any, flops: int, layer: int | None = None, *weights: str) -> Op:
            at = {"part": "vision", "owner": "vision", "flow": "vision", "layer": layer}
            return Op(**at, kind=kind, flops=flops, weights=weights)

        left = rows_left(self.merge, self.patches, dims.layers)

        def layer_ops(layer: int) -> Iterator[Op]:
            rows, after = (left[min(i, dims.layers)] + cls for i in (layer, layer + 1))
            for name, matrix in self.projections().items():
                if name == "o":
                    yield op("attention", attention(rows, rows, width), layer)
                here = rows if name in "qkvo" else after
                product = linear(here, matrix.columns_in, matrix.columns_out)
                yield op("linear", product, layer, name)
                if name == "o" and after < rows:
                    yield match_op(rows, width // dims.heads, layer)

        ops = [op("conv", linear(self.patches, patch, width))]
        for layer in range(dims.layers):
            ops += layer_ops(layer)
        rows, last = left[-1] + cls, plain["num_hidden_layers"] - 1
        if Need.CLS_ATTENTION in need:
            ops.append(op("attention", attention(1, rows, width) // 2))
        if Need.CLS_LOGITS in need:
            if dims.layers <= last:
                for layer in range(dims.layers, last):
                    ops += layer_ops(layer)
                ops += [op("linear", linear(n, width, width), last) for n in (1, rows)]
            ops.append(op("attention", attention(1, rows, width) // 2))
        return ops

    def projections(self) -> dict[str, Projection]:
        """The matrices of a layer in the order of the data, named as the family names them."""
        dims, plain = self.dims(), self.hf()
        width, ffn, dino = dims.width, dims.ffn, plain["model_type"] == "dinov2"
        attn = "encoder.layer.{}.attention" if dino else "encoder.layers.{}.self_attn"
        paths = {name: f"{attn}.{name}_proj" for name in "qkv"}
        paths["o"] = f"{attn}.{'o_proj' if dino else 'out_proj'}"
        mlp = attn.rpartition(".")[0] + ".mlp"
        if plain.get("use_swiglu_ffn"):
            paths |= {name: f"{mlp}.{name}_proj" for name in ("gate", "up", "down")}
        else:
            paths |= {"up": f"{mlp}.fc1", "down": f"{mlp}.fc2"}
        sizes = {"gate": (width, ffn), "up": (width, ffn), "down": (ffn, width)}
        found: dict[str, Projection] = {}
        for name, path in paths.items():
            a, b = sizes.get(name, (width, width))
            found[name] = Projection(path=f"tower.{path}", columns_in=a, columns_out=b)
        return found

    def parameters(self) -> int:
        """Parameters the checkpoint holds, unused layers included, a pooling head left out."""
        dims, plain = self.dims(), self.hf()
        width, layers, family = dims.width, plain["num_hidden_layers"], plain["model_type"]
        embed = 3 * plain["patch_size"] ** 2 * width + (self.patches + int(dims.has_cls)) * width
        layer = 4 * (width * width + width) + 4 * width
        if plain.get("use_swiglu_ffn"):
            layer += 3 * width * dims.ffn + 2 * dims.ffn + width
        else:
            layer += 2 * width * dims.ffn + dims.ffn + width
        norms = 2 * width
        if family == "clip_vision_model":
            embed += width  # CLS
            norms += 2 * width
        else:
            embed += width  # bias of the patch embedding
        if family == "dinov2":
            embed += width * (1 + int(plain.get("use_mask_token", True)))
            layer += 2 * width  # layer scales
            layer -= 3 * width * (not plain.get("qkv_bias", True))
        return embed + norms + layers * layer


def check_tower(plain: Mapping[str, Any]) -> Iterator[str]:
    """Problems of a plain transformers config of a tower."""
    family = plain.get("model_type")
    if family not in DEFAULTS:
        yield f"model_type {family!r} is not one of {', '.join(DEFAULTS)}"
        return
    for key in DEFAULTS[family]:
        if not isinstance(plain[key], int) or plain[key] < 1:
            yield f"{key} is {plain[key]!r}, expected a whole number >= 1"
            return
    if plain["hidden_size"] % plain["num_attention_heads"]:
        yield (
            f"hidden_size {plain['hidden_size']} is not a multiple of "
            f"{plain['num_attention_heads']} heads"
        )
    if plain["patch_size"] > plain["image_size"]:
        yield f"patch_size {plain['patch_size']} is larger than image_size {plain['image_size']}"


def _ffn(plain: Mapping[str, Any]) -> int:
    if plain["model_type"] != "dinov2":
        return plain["intermediate_size"]
    inner = int(plain["hidden_size"] * plain.get("mlp_ratio", 4))
    return (int(inner * 2 / 3) + 7) // 8 * 8 if plain.get("use_swiglu_ffn") else inner


@VISION.register("hf", HfVisionConfig)
class HfVision(nn.Module):
    """A transformers tower, run up to the features.

    [N,3,H,W] normalised as the tower's image processor does -> Patches of
    `hidden_states[feature_layer]`.
    """

    def __init__(self, config: HfVisionConfig, dims: Dims) -> None:
        super().__init__()
        from transformers import AutoModel

        plain = dict(config.hf())
        if plain["model_type"] == "siglip_vision_model":
            plain["vision_use_head"] = False
        self.tower: Any = AutoModel.from_config(shape_of(plain))
        self.dims = dims.vision
        self.blocks: int = plain["num_hidden_layers"]
        self.pairs = merges(config.merge, config.patches, self.dims.layers)

    def forward(
        self, pixels_NCHW: Tensor, need: Need = Need.NONE, levels: tuple[int, ...] = ()
    ) -> Patches:
        """Features of every image, and what `need` asks for of the blocks.

        `levels`: entries of `hidden_states`, counted from 0, up to the features.
        """
        tower, cls, features = self.tower, self.dims.has_cls, self.dims.layers
        rows = tower.embeddings(pixels_NCHW.to(self.dtype))
        if hasattr(tower, "pre_layrnorm"):
            rows = tower.pre_layrnorm(rows)
        encoder = tower.encoder
        layers = encoder.layers if hasattr(encoder, "layers") else encoder.layer
        merging = Merging(rows, self.pairs, bool(cls)) if any(self.pairs) else None
        at_features = need & (Need.CLS_ATTENTION | Need.KEYS | Need.CLS_LOGITS)
        hidden: dict[int, Tensor] = {}
        seen: dict[str, Tensor] = {}
        for i, layer in enumerate(layers[:features]):
            if i in levels:
                hidden[i] = rows
            if merging is not None:
                rows = merged(layer, rows, merging, self.dims.heads, i)
            elif i == features - 1 and at_features:
                with heard(layer) as seen:
                    rows = layer(rows, attention_mask=None)
            else:
                rows = layer(rows, attention_mask=None)
        hidden[features] = rows = rows if merging is None else merging.in_order(rows)
        logits_NP = logit_keys_NTV = None
        if Need.CLS_LOGITS in need:
            query_NTV, logit_keys_NTV = self._last(layers, rows, seen)
            logits_NP = cls_logits(query_NTV[:, 0], logit_keys_NTV)
        return Patches(
            states_NPV=rows[:, int(cls) :],
            grid=self.dims.grid,
            cls_NV=rows[:, 0] if cls else None,
            cls_attention_NHP=self._cls_row(seen) if Need.CLS_ATTENTION in need else None,
            keys_NPV=seen["k_proj"][:, int(cls) :] if Need.KEYS in need else None,
            cls_logits_NP=logits_NP,
            logit_keys_NPV=None if logit_keys_NTV is None else logit_keys_NTV[:, 1:],
            levels=tuple(hidden[i][:, int(cls) :] for i in levels) if Need.LEVELS in need else (),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.tower.parameters()).dtype

    def _cls_row(self, seen: Mapping[str, Tensor]) -> Tensor:
        """The CLS row of the features' block, from the projections that it computed."""
        shape = (*seen["q_proj"].shape[:2], self.dims.heads, -1)
        query_NHd = seen["q_proj"].view(shape)[:, 0]
        key_NTHd = seen["k_proj"].view(shape)
        scores_NHT = (
            torch.einsum("nhd,nthd->nht", query_NHd, key_NTHd) * query_NHd.shape[-1] ** -0.5
        )
        return scores_NHT.softmax(dim=-1, dtype=torch.float32)[..., 1:]

    def _last(
        self, layers: Any, rows_NTV: Tensor, seen: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Query of CLS [N,1,V] (or of all rows) and keys [N,T,V] of the last block."""
        if self.dims.layers == self.blocks:
            return seen["q_proj"], seen["k_proj"]
        for layer in layers[self.dims.layers : self.blocks - 1]:
            rows_NTV = layer(rows_NTV, attention_mask=None)
        last = layers[self.blocks - 1]
        normed_NTV, attn = norms_of(last)[0](rows_NTV), attention_of(last)
        return attn.q_proj(normed_NTV[:, :1]), attn.k_proj(normed_NTV)
