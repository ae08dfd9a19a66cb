"""The band as transformers has it: IDEFICS' gated block and Llama-3.2-Vision's layer, 1e-5."""

from typing import Any

import pytest
import torch
from laws.probes import perturb
from laws.settings import LLAMA, TINY, with_keys
from laws.whole import inputs, model_of, sample
from torch import Tensor, nn
from transformers import IdeficsConfig, MllamaTextModel
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer
from transformers.models.mllama.configuration_mllama import MllamaTextConfig
from transformers.models.mllama.modeling_mllama import (
    MllamaCrossAttentionDecoderLayer,
    _prepare_cross_attention_mask,  # pyright: ignore[reportPrivateUsage]
)

from eramv_lab.model.attend import Reading, Work

BLOCK = {"band.at": "before", "band.gate": "tanh", "band.ffn": "gated"}
ROWS = {"type": "separate", "norm": "rows"}
MLLAMA: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "rms_norm_eps": 1e-6,
    "num_key_value_heads": 2, "vocab_size": 80, "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip


def band_model(**changes: Any) -> Any:
    """A model without anchors or bridge whose band is a new block before its layers."""
    section = with_keys(TINY, anchors="none", bridge="none", **BLOCK, **changes)
    return model_of(section)


def copied(ours: Any, theirs: nn.Module, attention: nn.Module, norms: dict[str, str]) -> None:
    """The weights of a transformers block in a band; `norms` are those of its heads."""
    block: Any = theirs
    sharing, ffn = ours.sharing, ours.ffn
    pairs = {name: getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    pairs |= {name: getattr(attention, source) for name, source in norms.items()}
    pairs["row_norm"] = block.input_layernorm
    for name, source in pairs.items():
        getattr(sharing, name).load_state_dict(source.state_dict())
    for name in ("gate_proj", "up_proj", "down_proj"):
        getattr(ffn, name).load_state_dict(getattr(block.mlp, name).state_dict())
    ffn.norm.load_state_dict(block.post_attention_layernorm.state_dict())


def gates(ours: Any, attention: Tensor, ffn: Tensor) -> None:
    with torch.no_grad():
        ours.gate.weight.copy_(attention)
        ours.ffn.gate.weight.copy_(ffn)


@torch.no_grad()
def stepped(model: Any, rows_BSD: Tensor, memory_BMD: Tensor, seen_BSM: Tensor) -> Tensor:
    """The rows after the band's own step in its first layer, where each reads what it sees."""
    some_BS1 = seen_BSM.any(dim=2, keepdim=True)
    reading = Reading(memory_BMD, None, (seen_BSM | ~some_BS1)[:, None], some_BS1.float())
    layer = model.language_model.layers[model.spec.band[0]]
    rope = torch.zeros(0), torch.zeros(0)
    return Work(layer, None, rope, None, reading).own_step(rows_BSD)


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, features of two images, and which image a row sees (the first rows none): [B,S,2]."""
    torch.manual_seed(0)
    rows_BSD, memory_BMD = torch.randn(2, 6, 32), torch.randn(2, 10, 32)
    sees_BSI = torch.zeros(2, 6, 2)
    sees_BSI[:, 2:4, 0] = 1
    sees_BSI[0, 4:, 1] = sees_BSI[1, 4:, :] = 1
    return rows_BSD, memory_BMD, sees_BSI, sees_BSI.repeat_interleave(5, dim=2).bool()


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_idefics_gated_block(qk_norm: bool):
    config = IdeficsConfig(
        hidden_size=32, intermediate_size=40, num_attention_heads=4, qk_layer_norms=qk_norm,
        vision_config={"embed_dim": 32},
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs: Any = IdeficsGatedCrossAttentionLayer(config, 0).eval()
    perturb(theirs)
    language = {"type": "hf", "config": LLAMA | {"num_key_value_heads": 4}}
    model = band_model(language=language, sharing=ROWS | {"qk_norm": qk_norm})
    band = model.language_model.layers[1].band
    heads = {"q_norm": "q_layer_norm", "k_norm": "k_layer_norm"} if qk_norm else {}
    copied(band, theirs, theirs.cross_attn, heads)
    gates(band, theirs.alpha_cross_attn, theirs.alpha_dense)
    rows_BSD, memory_BMD, sees_BSI, seen_BSM = drawn()
    mask = torch.zeros(2, 1, 6, 10).masked_fill(~seen_BSM[:, None], torch.finfo().min)
    expected = theirs(
        rows_BSD,
        image_hidden_states=memory_BMD,
        image_attention_mask=mask,
        cross_attention_gate=sees_BSI.any(dim=2).float(),
    )
    found = stepped(model, rows_BSD, memory_BMD, seen_BSM)
    torch.testing.assert_close(found[:, 2:], expected[:, 2:], atol=1e-5, rtol=1e-5)
    assert torch.equal(found[:, :2], rows_BSD[:, :2]), "a row that sees no image is left alone"
    fed = theirs.alpha_dense.tanh() * theirs.mlp(theirs.post_attention_layernorm(rows_BSD[:, :2]))
    # theirs is not, by its feed-forward: a text-only row in company would differ from it alone
    torch.testing.assert_close(expected[:, :2], rows_BSD[:, :2] + fed, atol=1e-5, rtol=1e-5)


def mllama(**changes: Any) -> Any:
    config = MllamaTextConfig(**{**MLLAMA, **changes})
    config._attn_implementation = "eager"
    return config


def copy_mllama(band: Any, theirs: Any) -> None:
    copied(band, theirs, theirs.cross_attn, {"q_norm": "q_norm", "k_norm": "k_norm"})
    gates(band, theirs.cross_attn_attn_gate, theirs.cross_attn_mlp_gate)


@torch.no_grad()
def test_mllamas_layer_with_its_row_mask():
    theirs: Any = MllamaCrossAttentionDecoderLayer(mllama(), 0).eval()
    perturb(theirs)
    language = {"type": "hf", "config": LLAMA}
    model = band_model(language=language, sharing=ROWS | {"qk_norm": True})
    copy_mllama(model.language_model.layers[1].band, theirs)
    rows_BSD, memory_BMD, sees_BSI, seen_BSM = drawn()
    mask, row_mask = _prepare_cross_attention_mask(sees_BSI[..., None], 5, torch.float32)  # type: ignore[arg-type]
    found = stepped(model, rows_BSD, memory_BMD, seen_BSM)

    def run(attention_too: bool) -> Tensor:
        """Theirs; its attention masked by row as its feed-forward is, or left uniform."""
        plain = theirs.cross_attn.forward

        def masked(*args: Any, **kwargs: Any) -> Any:
            out, weights = plain(*args, **kwargs)
            return (out * row_mask[:, 0] if attention_too else out), weights

        theirs.cross_attn.forward = masked
        try:
            return theirs(rows_BSD, memory_BMD, mask, None, row_mask)
        finally:
            theirs.cross_attn.forward = plain

    torch.testing.assert_close(found, run(True), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 2:], run(False)[:, 2:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_whole_mllama_text_model():
    """Layers 1 and 4 of six are cross-attention: before layers 1 and 3 of the four others."""
    theirs: Any = MllamaTextModel(mllama(num_hidden_layers=6, cross_attention_layers=[1, 4])).eval()
    language = {"type": "hf", "config": LLAMA}
    model = band_model(
        language=language,
        sharing=ROWS | {"qk_norm": True},
        band={"layers": [1, 3], **{k.removeprefix("band."): v for k, v in BLOCK.items()}},
    )
    perturb(theirs)
    own, text = model.language_model, [theirs.layers[i] for i in (0, 2, 3, 5)]
    own.embed_tokens.weight.copy_(theirs.embed_tokens.weight[:80])
    own.norm.load_state_dict(theirs.norm.state_dict())
    for layer, source in zip(own.layers, text, strict=True):
        assert not layer.load_state_dict(source.state_dict(), strict=False).unexpected_keys
    for i, j in ((1, 1), (3, 4)):
        copy_mllama(own.layers[i].band, theirs.layers[j])
    for pictures in ((0,), ()):
        one = sample(model, words=6, pictures=pictures)
        batch = inputs(model, [one])
        seen = model.see(batch.get("pixel_values"), None)
        states = None if seen is None else model.connector(seen.states_NPV)
        hidden = theirs(
            input_ids=batch["input_ids"],
            cross_attention_states=states,
            cross_attention_mask=None,
            full_text_row_masked_out_mask=None,
            use_cache=False,
        ).last_hidden_state
        expected = model.lm_head(hidden)
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-5)
