"""`qformer` with copied weights is transformers' BLIP-2 and InstructBLIP, up to language width."""

from typing import Any

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

from eramv_lab.registry import CONNECTOR
from eramv_lab.shapes import Dims, LanguageDims, VisionDims
from eramv_lab.slots.connectors.qformer import QformerConfig
from eramv_lab.slots.contracts import Anchors, Patches, Question

WIDE, DEEP, VOCAB, WORDS, SIDE = 20, 28, 60, 9, 3
SIZES: dict[str, Any] = {"queries": 5, "layers": 3, "width": 24, "heads": 4, "ffn": 36}
VISION: dict[str, Any] = {
    "hidden_size": WIDE, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "image_size": 6, "patch_size": 2,
}  # fmt: skip
FORMER: dict[str, Any] = {
    "hidden_size": SIZES["width"], "num_hidden_layers": SIZES["layers"],
    "num_attention_heads": SIZES["heads"], "intermediate_size": SIZES["ffn"],
    "encoder_hidden_size": WIDE, "vocab_size": VOCAB, "max_position_embeddings": WORDS,
    "pad_token_id": None,
}  # fmt: skip
TEXT = LlamaConfig(
    hidden_size=DEEP, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, vocab_size=VOCAB, pad_token_id=0,
)  # fmt: skip
PIXELS = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def ours(model: Any, **keys: Any) -> Any:
    """The connector with all that BLIP-2 trains between tower and language model."""
    vision = VisionDims(
        image=6, grid=(SIDE, SIDE), width=WIDE, heads=2, ffn=16, layers=1, has_cls=True
    )
    language = LanguageDims(
        width=DEEP, layers=1, heads=2, kv_heads=2, head_dim=14, ffn=16, vocab=VOCAB
    )
    config = QformerConfig(**SIZES, **keys)
    module = CONNECTOR.of(config).factory(config, Dims(vision=vision, language=language)).eval()
    weights = {f"former.{name}": tensor for name, tensor in model.qformer.state_dict().items()}
    norm = model.vision_model.post_layernorm.state_dict()
    weights |= {f"norm.{name}": tensor for name, tensor in norm.items()}
    last = model.language_projection.state_dict()
    weights |= {f"to_language.{name}": tensor for name, tensor in last.items()}
    module.load_state_dict(weights | {"queries": model.query_tokens[0]})
    module.norm.eps = model.vision_model.post_layernorm.eps
    return module


def rows(model: Any) -> tuple[Anchors, Patches]:
    """The tower's rows before its last norm, which is ours: CLS and every patch."""
    seen: list[torch.Tensor] = []
    hook = model.vision_model.post_layernorm.register_forward_pre_hook(
        lambda _module, given: seen.append(given[0])
    )
    model.vision_model(PIXELS)
    hook.remove()
    states_NTV = seen[0]
    index_NT = torch.arange(-1, SIDE**2).expand(2, -1)
    patches = Patches(states_NPV=states_NTV[:, 1:], grid=(SIDE, SIDE), cls_NV=states_NTV[:, 0])
    return Anchors(states_NAV=states_NTV, index_NA=index_NT), patches


def random(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    return model.eval()


@torch.no_grad()
def test_it_is_blip2():
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION).to_dict(),
        qformer_config=Blip2QFormerConfig(**FORMER).to_dict(),
        text_config=TEXT.to_dict(),
        num_query_tokens=SIZES["queries"],
    )
    theirs = random(Blip2ForConditionalGeneration(config))
    expected = theirs.get_image_features(PIXELS).pooler_output
    found = ours(theirs)(*rows(theirs))
    torch.testing.assert_close(found.states_NAD, expected, atol=1e-5, rtol=1e-5)
    assert (found.index_NA == -1).all()


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
def test_it_is_instructblip(side: str):
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**VISION).to_dict(),
        qformer_config=InstructBlipQFormerConfig(**FORMER).to_dict(),
        text_config=TEXT.to_dict(),
        num_query_tokens=SIZES["queries"],
    )
    theirs = random(InstructBlipForConditionalGeneration(config))
    asked = [[11, 12, 13, 14], [21, 22]]
    expected = torch.cat(
        [
            theirs.get_image_features(
                PIXELS[i : i + 1], qformer_input_ids=torch.tensor([ids])
            ).pooler_output
            for i, ids in enumerate(asked)
        ]
    )
    left = [0] * 2 + asked[1] if side == "left" else asked[1] + [0] * 2
    ids_BT = torch.tensor([asked[0], left])
    question = Question(ids_BT=ids_BT, mask_BT=ids_BT > 0)
    module = ours(theirs, question=True, words=WORDS)
    found = module(*rows(theirs), question=question)
    torch.testing.assert_close(found.states_NAD, expected, atol=1e-5, rtol=1e-5)
    other = Question(ids_BT=ids_BT.clamp(min=30), mask_BT=ids_BT > 0)
    changed = module(*rows(theirs), question=other).states_NAD - expected
    assert changed.abs().max() > 1e-3
    with pytest.raises(ValueError, match="question"):
        module(*rows(theirs))
