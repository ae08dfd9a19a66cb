"""How a component alone is built and asked, slot by slot: the same images whatever the batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.shapes import Op
from eramv_lab.slots.contracts import Anchors, Need, Patches, Question
from laws.settings import Case, component, section_of, with_keys

WITHOUT_CLS = Need.KEYS | Need.LEVELS
WITH_CLS = WITHOUT_CLS | Need.CLS | Need.CLS_ATTENTION | Need.CLS_LOGITS
WORDS = 5
"""Of a question, one of them padding."""
MODULES = ("vision", "anchors", "connector", "fusion", "bridge", "sharing", "language")
"""Slots whose components compute something by themselves."""


def spec_of(section: Mapping[str, Any]) -> ModelSpec:
    """The parsed section; fails with what is wrong with it."""
    problems: list[Any] = []
    spec = parse_model(section, problems)
    assert spec is not None, "\n".join(p.render() for p in problems)
    return spec


def config_in(spec: ModelSpec, case: Case) -> Any:
    """The component's config inside the spec."""
    config = getattr(spec, case[0])
    return config[0] if isinstance(config, tuple) else config


def build(
    case: Case, weights_seed: int = 0, model: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Any, ModelSpec]:
    """The component alone, random weights from `weights_seed`, and the spec that it was built for.

    `options` are keys of its config, `model` other keys of the section.
    """
    spec = spec_of(with_keys(section_of(case, **options), **(model or {})))
    with torch.random.fork_rng():
        torch.manual_seed(weights_seed)
        module = component(case).factory(config_in(spec, case), spec.dims())
    return module, spec


def perturb(module: nn.Module) -> None:
    """Every parameter away from zero, drawn by its name: no piece is silent at the start."""
    for name, parameter in module.named_parameters():
        draw = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))
        )
        with torch.no_grad():
            if parameter.ndim < 2:
                parameter.copy_(0.1 * draw + ("norm" in name and name.endswith("weight")))
            else:
                parameter.copy_(draw * 1.2 * parameter[0].numel() ** -0.5)


def draw(images: int, *shape: int) -> Tensor:
    """[images, ...]: image i is the same in every batch."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(images)]
    return torch.stack(rows)


def patches(spec: ModelSpec, images: int) -> Patches:
    """Features as a tower of the spec would give them."""
    v = spec.vision.dims()
    everything = draw(images, v.tokens + v.heads, max(v.width, v.tokens))
    attention_NHT = everything[:, v.tokens :, : v.tokens].softmax(-1)
    return Patches(
        states_NPV=everything[:, : v.patches, : v.width],
        grid=v.grid,
        cls_NV=everything[:, v.tokens - 1, : v.width],
        cls_attention_NHP=attention_NHT[..., 1:],
        keys_NPV=draw(images + 1, v.patches, v.width)[1:],
        cls_logits_NP=attention_NHT[:, 0].log()[..., 1:],
        logit_keys_NPV=draw(images + 2, v.patches, v.width)[2:],
    )


def to(value: Any, device: str | torch.device, dtype: torch.dtype | None = None) -> Any:
    """A tensor, or the tensors of Patches, moved; `dtype` for what floats."""
    if isinstance(value, Patches):
        moved = {name: to(tensor, device, dtype) for name, tensor in value.features().items()}
        return Patches.of(moved, value.grid, dtype or torch.float32)
    return value.to(device, dtype if value.is_floating_point() else None)


def ask(
    case: Case,
    module: Any,
    spec: ModelSpec,
    images: int = 2,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """What the component makes of `images` images, by name."""

    def moved(value: Any) -> Any:
        return to(value, device, dtype)

    return ASK[case[0]](module, spec, images, moved)


def _vision(module: Any, spec: ModelSpec, n: int, moved: Callable[..., Any]) -> dict[str, Tensor]:
    side = spec.vision.dims().image
    need = everything(spec)
    out = module(moved(draw(n, 3, side, side)), need, (0, 1) if Need.LEVELS in need else ())
    found = {"states": out.states_NPV, "cls": out.cls_NV, "row": out.cls_attention_NHP}
    found |= {"keys": out.keys_NPV, "logits": out.cls_logits_NP, "logit_keys": out.logit_keys_NPV}
    found |= {f"level_{i}": level for i, level in enumerate(out.levels)}
    return {k: v for k, v in found.items() if v is not None}


def everything(spec: ModelSpec) -> Need:
    """All that the spec's tower can give."""
    dims = spec.vision.dims()
    if dims.merged:
        return Need.CLS if dims.has_cls else Need.NONE
    return WITH_CLS if dims.has_cls else WITHOUT_CLS


def _anchors(module: Any, spec: ModelSpec, n: int, moved: Callable[..., Any]) -> dict[str, Tensor]:
    seen: Patches = moved(patches(spec, n))
    if spec.anchors.projected:
        rows_NPD = moved(draw(n, spec.vision.dims().patches, spec.language.dims().width))
        seen = replace(seen, projected_NPD=rows_NPD)
    out = module(seen)
    found = {"states": out.states_NAV, "index": out.index_NA}
    return found if out.mask_NA is None else found | {"mask": out.mask_NA.long()}


def _connector(
    module: Any, spec: ModelSpec, n: int, moved: Callable[..., Any]
) -> dict[str, Tensor]:
    if spec.connector.per_token:
        return {"states": module(moved(draw(n, spec.connector_rows(), spec.vision.dims().width)))}
    seen: Patches = moved(patches(spec, n))
    wanted = getattr(spec.connector, "levels", ())
    seen = replace(seen, levels=tuple(seen.states_NPV * (i + 1) for i in range(len(wanted))))
    rows = torch.arange(spec.dims().anchors)
    index_NA = moved((rows - int(spec.anchors.takes_cls)).expand(n, -1))
    given = Anchors(states_NAV=seen.states_NPV[:, : len(rows)], index_NA=index_NA)
    question = None
    if spec.reads_question:
        mask_BT = torch.arange(WORDS).expand(n, -1) > 0
        words_BT = torch.arange(WORDS).expand(n, -1) + 10
        question = Question(ids_BT=moved(words_BT), mask_BT=moved(mask_BT))
    out = module(given, seen, question=question)
    return {"states": out.states_NAD, "index": out.index_NA}


def _layer(spec: ModelSpec, like: Tensor) -> nn.Module:
    from eramv_lab.registry import LANGUAGE

    language: Any = LANGUAGE.of(spec.language).factory(spec.language, spec.dims())
    layer = language.layers[1]
    if like.device.type != "meta":
        perturb(layer)
    return layer.to(like.device, like.dtype)


def _bridge(module: Any, spec: ModelSpec, n: int, moved: Callable[..., Any]) -> dict[str, Tensor]:
    dims = spec.dims()
    width = dims.vision.width if spec.bridge.input == "vision" else dims.language.width
    memory_BMx = moved(draw(n, dims.fine, width))
    return {"states": module(memory_BMx, layer=_layer(spec, memory_BMx))}


def _sharing(module: Any, spec: ModelSpec, n: int, moved: Callable[..., Any]) -> dict[str, Tensor]:
    dims, language = spec.dims(), spec.language.dims()
    memory_BMD = moved(draw(n, dims.fine, language.width))
    layer: Any = _layer(spec, memory_BMD)
    rows_BSD = module.norm_rows(layer, moved(draw(n, 7, language.width)))
    own = layer.self_attn.q_proj(rows_BSD).view(n, 7, -1, language.head_dim).transpose(1, 2)
    keys, values = module.keys_values(layer, memory_BMD)
    heads_BSE = moved(draw(n, 7, spec.sharing.heads_of(language).query_width))
    found = {"keys": keys, "values": values, "queries": module.query(layer, rows_BSD, own)}
    out = module.out(layer, heads_BSE)
    return found if out is None else found | {"out": out}


def _fusion(module: Any, spec: ModelSpec, n: int, moved: Callable[..., Any]) -> dict[str, Tensor]:
    rows_BSD = moved(draw(n, 7, spec.language.dims().width))
    found = {name: part(rows_BSD) for name, part in module.items()}
    return {k: part if part.ndim == 3 else part.expand(n, 7, -1) for k, part in found.items()}


def _language(module: Any, spec: ModelSpec, n: int, moved: Callable[..., Any]) -> dict[str, Tensor]:
    embeds_BSD = moved(draw(n, 7, spec.language.dims().width))
    return {"states": module(inputs_embeds=embeds_BSD, use_cache=True).last_hidden_state}


ASK: dict[str, Callable[..., dict[str, Tensor]]] = {
    "vision": _vision,
    "anchors": _anchors,
    "connector": _connector,
    "bridge": _bridge,
    "sharing": _sharing,
    "fusion": _fusion,
    "language": _language,
}


def priced(ops: list[Op]) -> int:
    """FLOPs of the closed form."""
    return sum(op.flops for op in ops)


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """FLOPs that torch counts inside; meta tensors only (on the CPU attention counts nothing)."""
    with FlopCounterMode(display=False) as counter:
        yield counter.get_total_flops
