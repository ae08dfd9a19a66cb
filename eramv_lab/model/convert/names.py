"""What each tensor is called in a LLaVA checkpoint and in a model of ours."""

from __future__ import annotations

import re

OURS = (
    (r"^model\.(?=language_model|vision_tower|multi_modal_projector|lm_head)", ""),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "language_model."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
    (r"^vision_tower\.(?!tower\.)", "vision_tower.tower."),
    (r"^multi_modal_projector\.", "connector."),
)
"""All spellings: of the hub, of files that transformers saves, of its modules."""
THEIRS = (
    (r"^vision_tower\.tower\.", "vision_tower."),
    (r"^connector\.", "multi_modal_projector."),
    (r"^language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
"""As transformers' `LlavaForConditionalGeneration` saves them."""
USELESS = re.compile(
    r"rotary_emb\.inv_freq$|embeddings\.position_ids$|^vision_tower\.tower\.head\."
)
"""What a file may hold and no layer that runs reads: tables, and a tower's pooling head."""


def our_name(name: str) -> str:
    """The name in a model of ours of a tensor that a checkpoint calls `name`."""
    return _renamed(name, OURS)


def their_name(name: str) -> str:
    """The reverse."""
    return _renamed(name, THEIRS)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name, count=1)
    return name
