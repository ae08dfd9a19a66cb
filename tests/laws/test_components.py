"""Laws 2, 3, 4, 6 and 7 on each component alone, before any model is around it."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eramv_lab.slots.contracts import Need
from laws.probes import (
    MODULES,
    WORDS,
    ask,
    build,
    config_in,
    counting,
    everything,
    perturb,
    priced,
)
from laws.settings import (
    CASES,
    LANGUAGES,
    TOWERS,
    Case,
    setting,
    turned,
)

FLOATS = ("row", "logits")
"""Where CLS looks may stay in float32."""
Built = tuple[Case, dict[str, Any]]
GATES = [(("fusion", "attend"), {"gate": gate}) for gate in ("tanh", "channel", "text")]
FEEDS = [
    (("fusion", "attend"), {"ffn": ffn, "gate": gate, "at": "before"})
    for ffn, gate in (("gelu", "tanh"), ("gated", "channel"), ("gelu", "none"))
]
FAMILIES = [(("language", "hf"), {"config": config}) for config in LANGUAGES.values()]
TURNED: list[Built] = [
    (case, {name: turn.to} | {key.removeprefix(f"{case[0]}."): v for key, v in turn.model.items()})
    for case in CASES
    if case[0] in ("anchors", "connector", "bridge", "sharing")
    for name, turn in turned(case)
]
MADE: list[Built] = [(case, {}) for case in CASES if case[0] in MODULES and case[0] != "fusion"]
MADE += [*GATES, *FEEDS, *FAMILIES[1:], *TURNED]


def _id(built: Built) -> str:
    case, options = built
    words = [str(v.get("model_type", v)) if isinstance(v, dict) else v for v in options.values()]
    return "-".join([".".join(case), *(f"{k}={w}" for k, w in zip(options, words, strict=True))])


each = pytest.mark.parametrize("built", MADE, ids=_id)
weighty = pytest.mark.parametrize(
    "built", [b for b in MADE if b[0][0] != "anchors" and b[0] != ("bridge", "ffn")], ids=_id
)
towers = pytest.mark.parametrize("family", TOWERS)


def weights(module: Any) -> dict[str, Tensor]:
    return dict(module.named_parameters()) if isinstance(module, nn.Module) else {}


@weighty
def test_the_same_seed_gives_the_same_weights(built: Built):
    case, options = built
    one, _ = build(case, weights_seed=3, **options)
    torch.rand(7)  # the state of the default generator outside does not matter
    two, _ = build(case, weights_seed=3, **options)
    for name, weight in weights(one).items():
        assert torch.equal(weight, weights(two)[name]), name


@each
def test_shape_dtype_and_device(built: Built):
    case, options = built
    module, spec = build(case, **options)
    plain = ask(case, module, spec)
    expect_shapes(case, spec, plain)
    assert all(t.dtype in (torch.float32, torch.int64) for t in plain.values())
    with torch.autocast("cpu", torch.bfloat16):
        automatic = ask(case, module, spec)
    half = ask(case, module.to(torch.bfloat16), spec, dtype=torch.bfloat16)
    empty, _ = _on_meta(built)
    meta = ask(case, empty, spec, device="meta")
    for name, tensor in plain.items():
        for other in (automatic, half, meta):
            assert other[name].shape == tensor.shape
        assert meta[name].device.type == "meta" and meta[name].dtype == tensor.dtype
        assert automatic[name].isfinite().all() and half[name].isfinite().all()
        if tensor.is_floating_point() and name not in FLOATS:
            assert half[name].dtype == torch.bfloat16, name


def expect_shapes(case: Case, spec: Any, found: dict[str, Tensor]) -> None:
    dims, language = spec.dims(), spec.language.dims()
    d, kv = spec.sharing.heads_of(language).head_dim, language.kv_heads
    connected = spec.connector_rows() if spec.connector.per_token else dims.visual
    rows = {
        "vision": {
            "states": (dims.vision.patches, dims.vision.width),
            "cls": (dims.vision.width,),
            "row": (dims.vision.heads, dims.vision.patches),
            "keys": (dims.vision.patches, dims.vision.width),
            "logits": (dims.vision.patches,),
            "logit_keys": (dims.vision.patches, dims.vision.width),
            "level_0": (dims.vision.patches, dims.vision.width),
            "level_1": (dims.vision.patches, dims.vision.width),
        },
        "anchors": {
            "states": (dims.anchors, dims.vision.width),
            "index": (dims.anchors,),
            "mask": (dims.anchors,),
        },
        "connector": {
            "states": (connected, language.width),
            "index": (connected,),
        },
        "bridge": {"states": (dims.fine, language.width)},
        "sharing": {
            "keys": (kv, dims.fine, d),
            "values": (kv, dims.fine, d),
            "queries": (language.heads, 7, d),
            "out": (7, language.width),
        },
        "language": {"states": (7, language.width)},
    }
    for name, tensor in found.items():
        if case[0] == "fusion":
            widths = (1, language.query_width) if name == "gate" else (language.width,)
            assert tensor.shape[:2] == (2, 7) and tensor.shape[2] in widths
        else:
            assert tensor.shape == (2, *rows[case[0]][name]), name
    if case[0] == "anchors":
        patches = [row[row >= 0] for row in found["index"]]
        assert all((row.diff() > 0).all() for row in patches), "anchors stand in raster order"


@weighty
def test_gradients_reach_every_parameter(built: Built):
    case, options = built
    module, spec = build(case, **options)
    perturb(module)
    sum(t.float().square().sum() for t in ask(case, module, spec).values()).backward()  # type: ignore[union-attr]
    idle = setting(case).idle
    for name, weight in weights(module).items():
        if name == "embed_tokens.weight" or (idle and re.search(idle, name)):
            continue
        assert weight.grad is not None and weight.grad.any(), name


@each
def test_a_batch_is_its_images_one_by_one(built: Built):
    case, options = built
    module, spec = build(case, **options)
    if isinstance(module, nn.Module):
        perturb(module)
    one, three = ask(case, module, spec, images=1), ask(case, module, spec, images=3)
    for name, tensor in three.items():
        torch.testing.assert_close(tensor[:1], one[name], atol=2e-6, rtol=2e-5, msg=name)
        if case[0] == "anchors" and name == "index":
            assert torch.equal(tensor[:1], one[name])


@weighty
def test_the_parameter_count_is_exact(built: Built):
    case, options = built
    module, spec = build(case, **options)
    config, language = config_in(spec, case), spec.language.dims()
    counted = sum(weight.numel() for weight in weights(module).values())
    if case[0] == "sharing":
        priced_parameters = config.parameters(language)
    elif case[0] == "fusion":
        priced_parameters = config.parameters(language, spec.sharing)
        priced_parameters -= spec.sharing.parameters(language)
    elif case[0] == "language":
        priced_parameters = config.parameters()
        counted += 0 if language.tied else language.vocab * language.width
    elif case[0] == "vision":
        priced_parameters = config.parameters()
    else:
        priced_parameters = config.parameters(spec.dims())
    assert priced_parameters == counted


def _on_meta(built: Built) -> tuple[Any, Any]:
    with torch.device("meta"):
        return build(built[0], **built[1])


@pytest.mark.parametrize(
    "built", [b for b in MADE if b[0][0] in ("connector", "bridge", "vision", "anchors")], ids=_id
)
def test_the_closed_form_is_the_meta_count(built: Built):
    case = built[0]
    module, spec = _on_meta(built)
    config, dims = config_in(spec, case), spec.dims()
    with counting() as total:
        ask(case, module, spec, images=1, device="meta")
        counted = total()
    if case[0] == "vision":
        assert priced(config.ops(everything(spec))) == counted
    elif case[0] == "connector":
        asks = {"question": WORDS} if spec.reads_question else {}
        assert priced(config.ops(dims, spec.connector_rows(), **asks)) == counted
    elif case[0] == "bridge":
        assert priced(config.ops(dims, dims.fine, 1)) == counted
    else:
        assert priced(config.ops(dims)) == counted


def tower_of(family: str) -> tuple[Any, Any]:
    return build(("vision", "hf"), model={"anchors.type": "norm"}, config=TOWERS[family])


@towers
def test_every_tower_family_is_priced(family: str):
    module, spec = tower_of(family)
    expect_shapes(("vision", "hf"), spec, ask(("vision", "hf"), module, spec))
    assert spec.vision.parameters() == sum(weight.numel() for weight in weights(module).values())
    with torch.device("meta"):
        module, spec = tower_of(family)
    with counting() as total:
        ask(("vision", "hf"), module, spec, images=1, device="meta")
        assert total() == priced(spec.vision.ops(everything(spec)))


@towers
def test_the_features_are_a_hidden_state_of_transformers(family: str):
    module, spec = tower_of(family)
    perturb(module)
    side, cls = spec.vision.dims().image, int(spec.vision.dims().has_cls)
    pixels = torch.randn(2, 3, side, side)
    module.tower.set_attn_implementation("eager")
    found = module(pixels, Need.CLS_ATTENTION if cls else Need.NONE)
    whole = module.tower(pixels, output_hidden_states=True, output_attentions=True)
    features = whole.hidden_states[-2]
    torch.testing.assert_close(found.states_NPV, features[:, cls:])
    if cls:
        torch.testing.assert_close(found.cls_NV, features[:, 0])
        row = whole.attentions[-2][:, :, 0, 1:]
        torch.testing.assert_close(found.cls_attention_NHP, row)


@towers
@pytest.mark.parametrize("feature_layer", [-1, -2, -3])
def test_keys_levels_and_logits_are_transformers_own(family: str, feature_layer: int):
    module, spec = build(
        ("vision", "hf"),
        model={"anchors.type": "norm"},
        config=TOWERS[family],
        feature_layer=feature_layer,
    )
    perturb(module)
    dims = spec.vision.dims()
    cls, pixels = int(dims.has_cls), torch.randn(2, 3, dims.image, dims.image)
    levels = tuple(range(dims.layers + 1))
    found = module(pixels, everything(spec), levels)
    projected: dict[str, Tensor] = {}
    for name, one in module.tower.named_modules():
        if name.endswith(("q_proj", "k_proj")):
            one.register_forward_hook(lambda _m, _i, out, n=name: projected.update({n: out}))
    whole = module.tower(pixels, output_hidden_states=True)
    for level, states in zip(levels, found.levels, strict=True):
        torch.testing.assert_close(states, whole.hidden_states[level][:, cls:])
    key = spec.vision.projections()["k"].path.removeprefix("tower.")
    torch.testing.assert_close(found.keys_NPV, projected[key.format(dims.layers - 1)][:, cls:])
    if cls:
        last = projected[key.format(2)]
        query = projected[spec.vision.projections()["q"].path.removeprefix("tower.").format(2)]
        row = (query[:, 0, None] @ last.transpose(1, 2) / 4).softmax(-1)[:, 0, 1:]
        torch.testing.assert_close(found.cls_logits_NP.exp(), row)
        torch.testing.assert_close(found.logit_keys_NPV, last[:, 1:])
