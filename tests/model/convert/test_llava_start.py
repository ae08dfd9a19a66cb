"""What is new in a converted model starts so that nothing changes, or it is told."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from eramv_lab.errors import UserError
from eramv_lab.model import EramvForConditionalGeneration, EramvProcessor
from eramv_lab.model.convert import arm_section, convert_llava, to_llava
from tests.hub import TOWER, WORDS, make_llava
from tests.model.convert.test_llava_parity import ASKED, picture

FEW = {"anchors": {"type": "cls_topk", "count": 4, "cls": True}, "prompt": "question_first"}
BAND = {"start": 0, "length": 2}
BANDS: dict[str, dict[str, Any]] = {
    "reference": {"band": BAND, "bridge": "mlp"},
    "word": {"band": "all", "bridge": "low_rank"},
    "list": {"band": [1], "bridge": {"type": "mlp", "share": "band", "carry": True}},
    "channel": {"band": BAND | {"gate": "channel"}, "bridge": "projector"},
    "copy": {"band": BAND, "bridge": {"type": "projector", "init": "connector"}},
    "flamingo": {"band": BAND | {"at": "before"}, "sharing": "separate"},
    "after": {"band": BAND | {"at": "after", "queries": "text"}, "sharing": "lora"},
    "kv_copy": {"band": BAND, "sharing": "kv_copy", "fine": {"type": "all", "cls": True}},
    "own_norm": {"band": BAND, "sharing": "own_norm", "bridge": "ffn"},
    "skip": {"connector": {"type": "mlp2x_gelu", "skip": True}},
    "own_fine": {"band": BAND, "fine_connector": {"type": "perceiver", "queries": 3, "layers": 1}},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = {"rms_norm_eps": 1e-4, "attention_bias": True}
    return make_llava(tmp_path_factory.mktemp("llava") / "theirs", words=words)


def logits(model: Any, processor: Any) -> Tensor:
    model.eval()
    inputs = processor(images=[picture(0), picture(1)], text=list(ASKED))
    with torch.no_grad():
        return model(**inputs).logits[inputs["attention_mask"].bool()]


def processor_of(source: Path, out: Path) -> EramvProcessor:
    """With as many rows for an image as FEW has."""
    convert_llava(source, out, FEW)
    return EramvProcessor.from_pretrained(out)


@pytest.mark.parametrize("kind", BANDS)
def test_it_begins_as_the_anchors_only_model(source: Path, tmp_path: Path, kind: str):
    processor = processor_of(source, tmp_path / "plain")
    plain = EramvForConditionalGeneration.from_llava(source, **FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = EramvForConditionalGeneration.from_llava(source, **FEW, **BANDS[kind])
    expected = logits(plain, processor)
    torch.testing.assert_close(logits(made, processor), expected, atol=1e-6, rtol=0)
    with torch.no_grad():  # and every new piece is there
        for name, parameter in made.named_parameters():
            if ".gate." in name or name.startswith("connector.skip"):
                parameter += 0.5
    assert (logits(made, processor) - expected).abs().max() > 1e-3


def test_the_reference_begins_exactly_so(source: Path, tmp_path: Path):
    processor = processor_of(source, tmp_path / "plain")
    plain = EramvForConditionalGeneration.from_llava(source, anchors="all")
    made = EramvForConditionalGeneration.from_llava(source, anchors="all", **BANDS["reference"])
    processor.visual_rows = plain.visual_rows
    assert made.spec.fusion.gate == "tanh"
    assert torch.equal(logits(made, processor), logits(plain, processor))


@pytest.mark.parametrize(
    "how", [{"gate": "none"}, {"gate": "text"}, {"softmax": "joint", "positions": "one"}]
)
def test_an_open_band_is_told(source: Path, tmp_path: Path, how: dict[str, str]):
    section = {"anchors": "all", "band": BAND | how}
    with pytest.warns(UserWarning, match="from the first step"):
        made = EramvForConditionalGeneration.from_llava(source, **section)
    assert made.spec.fusion.gate == how.get("gate", "none")
    (told,) = convert_llava(source, tmp_path / "out", section)
    assert "band.gate tanh or channel" in told
    processor = EramvProcessor.from_pretrained(tmp_path / "out")
    plain = EramvForConditionalGeneration.from_llava(source)
    assert (logits(made, processor) - logits(plain, processor)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["separate", "kv_copy", "own_norm", "list", "copy"])
def test_the_folder_is_the_model_in_memory(source: Path, tmp_path: Path, kind: str):
    section = FEW | BANDS.get(kind, {"band": BAND, "sharing": kind, "bridge": "mlp"})
    made = EramvForConditionalGeneration.from_llava(source, seed=5, **section)
    convert_llava(source, tmp_path / "out", section, seed=5, shard="30KB")
    found = EramvForConditionalGeneration.from_pretrained(tmp_path / "out")
    state = found.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    processor = EramvProcessor.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(found, processor), logits(made, processor))
    band = made.language_model.layers[1].band
    layer = made.language_model.layers[1]
    if kind == "copy":
        states = torch.randn(2, 5, made.dims.vision.width)
        assert torch.equal(band.bridge(states, layer=layer), made.connector(states))
    if kind in ("separate", "own_norm"):
        norm = band.sharing.memory_norm
        assert norm.eps == found.language_model.layers[1].band.sharing.memory_norm.eps == 1e-4
        assert torch.equal(norm.weight, layer.input_layernorm.weight)
    if kind == "separate":
        assert torch.equal(band.sharing.v_proj.weight, layer.self_attn.v_proj.weight)


def test_half_precision_stays(tmp_path: Path):
    source = make_llava(tmp_path / "theirs", dtype=torch.bfloat16)
    convert_llava(source, tmp_path / "out", FEW | BANDS["reference"])
    found = EramvForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}
    made = EramvForConditionalGeneration.from_llava(source, **FEW, band=BAND)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    convert_llava(source, tmp_path / "same")
    to_llava(tmp_path / "same", tmp_path / "back")
    assert '"dtype": "bfloat16"' in (tmp_path / "back" / "config.json").read_text()


def test_it_learns_and_its_source_stays(source: Path):
    before = [file.read_bytes() for file in sorted(source.glob("*.safetensors"))]
    made = EramvForConditionalGeneration.from_llava(source, **FEW, **BANDS["reference"]).train()
    rows = [made.config.image_token_id] * made.visual_rows
    ids = torch.tensor([[1, 5, 6, *rows, 7, 8, 9]])
    labels = torch.full_like(ids, -100)
    labels[:, -2:] = ids[:, -2:]
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    losses: list[float] = []
    for _ in range(3):
        loss = made(input_ids=ids, labels=labels, pixel_values=torch.ones(1, 3, 32, 32)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert made.language_model.layers[0].band.gate.weight.abs().item() > 0
    assert [file.read_bytes() for file in sorted(source.glob("*.safetensors"))] == before


# --- recipes

RECIPE: dict[str, Any] = {
    "question": "How does a converted model do?",
    "model": {
        "vision": {"type": "hf", "config": {"model_type": "clip_vision_model", **TOWER}},
        "anchors": {"type": "cls_topk", "count": 4, "cls": True},
        "connector": "mlp2x_gelu",
        "band": "middle",
        "bridge": {"type": "mlp"},
        "sharing": "shared",
        "language": {"type": "hf", "config": {"model_type": "llama", **WORDS}},
        "prompt": "question_first",
    },
    "arms": {"closed": {}, "open": {"model": {"band.gate": "none"}}, "off": {"model.band": "none"}},
}
RECIPE["model"]["vision"]["config"] |= {"num_hidden_layers": 3}


def written(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return path


def test_a_recipes_arm_says_the_slots(tmp_path: Path):
    source, recipe = make_llava(tmp_path / "theirs"), written(tmp_path)
    told = convert_llava(source, tmp_path / "closed", arm_section(recipe, "closed"))
    assert told == ["band.gate is not given: tanh, closed at first, so that nothing changes "
                    "before training"]  # fmt: skip
    made = EramvForConditionalGeneration.from_pretrained(tmp_path / "closed")
    assert made.spec.band == (0, 1) and made.spec.anchors.count == 4
    assert made.spec.prompt.template == "chat"  # the checkpoint's own
    (told,) = convert_llava(source, tmp_path / "open", arm_section(recipe, "open"))
    assert "from the first step" in told
    assert convert_llava(source, tmp_path / "off", arm_section(recipe, "off")) == []
    more = ["model.prompt.positions=one", "model.anchors.count=3"]
    section = arm_section(recipe, "off", more)
    assert section["prompt"]["positions"] == "one" and section["anchors"]["count"] == 3
    assert "template" not in section["prompt"]


def test_a_recipe_of_several_arms_needs_one_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"3 arms(.|\n)*closed, open, off"):
        arm_section(written(tmp_path))


def test_a_recipe_of_another_shape_is_told_what_differs(tmp_path: Path):
    source = make_llava(tmp_path / "theirs")
    recipe = Path(__file__).parents[3] / "experiments" / "scale" / "eramv_7b.yaml"
    with pytest.raises(UserError) as error:
        convert_llava(source, tmp_path / "out", arm_section(recipe))
    text = str(error.value)
    for line in (
        "model.language: width is 4096, the checkpoint's is 32",
        "model.language: layers is 32, the checkpoint's is 2",
        "model.vision: image is 336, the checkpoint's is 32",
    ):
        assert line in text
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="vision: is 'tiny', but the checkpoint brings its own"):
        convert_llava(source, tmp_path / "out", {"vision": "tiny"})
    with pytest.raises(UserError, match="connector: is 'linear', the checkpoint's is 'mlp2x_gelu'"):
        convert_llava(source, tmp_path / "out", {"connector": "linear"})
    with pytest.raises(UserError, match=r"unknown key 'bnad'(.|\n)*band"):
        convert_llava(source, tmp_path / "out", {"bnad": "middle"})
