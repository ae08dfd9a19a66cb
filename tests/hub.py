"""Tiny folders as the hub has them: towers with their preprocessors, language models that can read.

Every `make_...(folder)` writes weights, config and what comes with them, and returns the folder.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

SIDE, PATCH, WIDTH = 32, 8, 32
VOCAB = 384
TOWER = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
WORDS = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB, "head_dim": 8,
    "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip
TEXT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "USER: what is the color of the thing in the picture? ASSISTANT: it is red.\n"
    "user assistant system You are a helpful assistant. two red cats and a blue dog on the mat.\n"
)

CHATML = (
    "{%- for m in messages %}"
    "{%- if loop.first and m.role != 'system' %}"
    "{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""Qwen2's, without tools."""

QWEN3 = (
    "{%- set ns = namespace(last=0) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}"
    "{%- for m in messages %}{%- set content = m.content %}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + content.lstrip('\n') }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + content }}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
"""Qwen3's, without tools: an answer that is the last one stands behind an empty thought."""

INST = (
    "{%- for m in messages %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('Conversation roles must alternate') }}{%- endif %}"
    "{%- if m.role == 'user' %}{{- bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{%- else %}{{- ' ' + m.content.strip() + ' ' + eos_token }}{%- endif %}{%- endfor %}"
)
"""Llama 2's."""

MISTRAL = (
    "{{- bos_token }}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{- '[INST] ' + m.content + ' [/INST]' }}"
    "{%- else %}{{- m.content + eos_token }}{%- endif %}{%- endfor %}"
)
"""Mistral 7B's: no blank of its own before an answer."""

LLAVA = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}"
    "{% endfor %}{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""LLaVA-1.5's, which takes contents in parts."""


# --- towers


def make_clip(folder: Path) -> Path:
    """A CLIP tower with its image processor."""
    mean = [0.48145466, 0.4578275, 0.40821073]
    return _tower(folder, "clip_vision_model", "CLIPImageProcessor", mean, TOWER)


def make_siglip(folder: Path) -> Path:
    """A SigLIP tower, which has no CLS, with its image processor."""
    return _tower(folder, "siglip_vision_model", "SiglipImageProcessor", [0.5] * 3, TOWER)


def make_dinov2(folder: Path) -> Path:
    """A DINOv2 tower with its image processor."""
    sizes = TOWER | {"mlp_ratio": 2}
    return _tower(folder, "dinov2", "BitImageProcessor", [0.485, 0.456, 0.406], sizes)


def _tower(
    folder: Path, family: str, processor: str, mean: list[float], sizes: dict[str, Any]
) -> Path:
    _weights(folder, AutoModel, {"model_type": family, **sizes})
    cut = family != "siglip_vision_model"
    plain = {
        "image_processor_type": processor,
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
        "do_center_crop": cut, "resample": 3, "rescale_factor": 1 / 255,
        "size": {"shortest_edge": SIDE} if cut else {"height": SIDE, "width": SIDE},
        "image_mean": mean, "image_std": [0.25, 0.26, 0.27],
    }  # fmt: skip
    if cut:
        plain["crop_size"] = {"height": SIDE, "width": SIDE}
    (folder / "preprocessor_config.json").write_text(json.dumps(plain, indent=1))
    return folder


# --- language models


def make_llama(folder: Path, template: str | None = INST) -> Path:
    """A Llama with a sentencepiece-like tokenizer that begins every text with `<s>`."""
    _weights(folder, AutoModelForCausalLM, WORDS | _ends(1, 2) | {"model_type": "llama"})
    return _save(llama_tokenizer(template), folder)


def make_mistral(folder: Path, template: str | None = MISTRAL) -> Path:
    """A Mistral with Llama's kind of tokenizer."""
    sizes = WORDS | _ends(1, 2) | {"model_type": "mistral", "sliding_window": None}
    _weights(folder, AutoModelForCausalLM, sizes)
    return _save(llama_tokenizer(template), folder)


def make_qwen2(folder: Path, template: str | None = CHATML, *, pad: bool = True) -> Path:
    """A Qwen2 with a byte-level tokenizer; `pad`: it knows `<|image_pad|>`."""
    tokenizer = qwen_tokenizer(template, pad=pad)
    ends = _ends(None, tokenizer.eos_token_id)
    _weights(folder, AutoModelForCausalLM, WORDS | ends | {"model_type": "qwen2"})
    return _save(tokenizer, folder)


def make_qwen3(folder: Path, template: str | None = QWEN3) -> Path:
    """A Qwen3, whose answers stand behind an empty thought."""
    tokenizer = qwen_tokenizer(template)
    ends = _ends(None, tokenizer.eos_token_id)
    _weights(folder, AutoModelForCausalLM, WORDS | ends | {"model_type": "qwen3"})
    return _save(tokenizer, folder)


TOWERS = {"clip": make_clip, "siglip": make_siglip, "dinov2": make_dinov2}
LANGUAGES = {
    "llama": make_llama, "mistral": make_mistral, "qwen2": make_qwen2, "qwen3": make_qwen3
}  # fmt: skip


# --- LLaVA


def make_llava(
    folder: Path,
    family: str = "llama",
    tower: str = "clip_vision_model",
    *,
    words: dict[str, Any] | None = None,
    shard: str = "40KB",
    dtype: torch.dtype = torch.float32,
    template: str | None = LLAVA,
    **config: Any,
) -> Path:
    """A LLaVA in shards with its processor; every weight is away from its start."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip import CLIPImageProcessorPil

    tokenizer = qwen_tokenizer(None) if "qwen" in family else llama_tokenizer(None)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.pad_token = tokenizer.eos_token
    text = WORDS | _ends(tokenizer.bos_token_id, tokenizer.eos_token_id) | (words or {})
    strategy = "default" if tower == "clip_vision_model" else "full"
    config = {"vision_feature_select_strategy": strategy, "image_seq_length": 16} | config
    plain = LlavaConfig(
        vision_config=AutoConfig.for_model(tower, **TOWER | {"num_hidden_layers": 3}),
        text_config=AutoConfig.for_model(family, **text),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **config,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = LlavaForConditionalGeneration(plain)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    pixels: Any = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    LlavaProcessor(
        CLIPImageProcessorPil(**pixels),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy=config["vision_feature_select_strategy"],
        num_additional_image_tokens=int(tower == "clip_vision_model"),
        chat_template=template,
    ).save_pretrained(folder)
    return folder


# --- tokenizers


def qwen_tokenizer(template: str | None = CHATML, *, pad: bool = True) -> Any:
    """Qwen's kind: byte-level pairs, no BOS, turns end with `<|im_end|>`."""
    from transformers import AddedToken, Qwen2Tokenizer

    plain = _pairs("bytes")
    tokenizer = Qwen2Tokenizer(vocab=plain["vocab"], merges=_merges(plain))
    marks = ["<|im_start|>", "<|im_end|>", *(["<|image_pad|>"] if pad else [])]
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in ("<think>", "</think>")])
    tokenizer.chat_template = template
    return tokenizer


def llama_tokenizer(template: str | None = INST) -> Any:
    """Llama 2's kind: pairs over whole text, blanks as part of words, `<s>` in front."""
    from transformers import LlamaTokenizer

    plain = _pairs("blanks")
    tokenizer = LlamaTokenizer(vocab=plain["vocab"], merges=_merges(plain), add_bos_token=True)
    tokenizer.chat_template = template
    return tokenizer


def older_llama_tokenizer() -> Any:
    """Llama 2's as older files hold it: a blank is put in front of whatever follows a token."""
    from tokenizers import normalizers

    tokenizer = llama_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return tokenizer


def trimming_tokenizer() -> Any:
    """Byte-level, and like Llama 3's it says that a token begins behind its blank."""
    from tokenizers import processors

    tokenizer = qwen_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


@cache
def _pairs(kind: str) -> dict[str, Any]:
    """A small BPE learnt from TEXT."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    if kind == "bytes":
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        first, letters = [], pre_tokenizers.ByteLevel.alphabet()
    else:
        learner.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
        first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        letters = []
    trainer = trainers.BpeTrainer(
        vocab_size=len(first) + len(letters) + 90,
        special_tokens=first,
        initial_alphabet=letters,
        show_progress=False,
    )
    learner.train_from_iterator([TEXT], trainer)
    return json.loads(learner.to_str())["model"]


def _merges(plain: dict[str, Any]) -> Any:
    return [tuple(pair) for pair in plain["merges"]]


def _ends(bos: int | None, eos: int) -> dict[str, Any]:
    return {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": None}


def _weights(folder: Path, auto: Any, config: dict[str, Any]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto.from_config(AutoConfig.for_model(**config)).save_pretrained(folder)


def _save(tokenizer: Any, folder: Path) -> Path:
    assert len(tokenizer) < VOCAB
    tokenizer.save_pretrained(folder)
    return folder
